"""Rows of a dead owner: the short way that most of them take, and the thorough one, agree."""

from __future__ import annotations

from typing import Any

import pytest
from helpers.journal_kit import Save
from hypothesis import example, given, settings
from hypothesis import strategies as st

from retryexec.journal import Entry, _takeover
from retryexec.journal._codec import Codec
from retryexec.journal._takeover import Found, revive

NOW = 1_800_000_000.0
ID = "019abcdef" + "0" * 22
FRESH = (
    1,
    ID + "0",
    "save",
    1,
    '{"email":"john"}',
    0,
    0,
    0,
    NOW - 5,
    *[None] * 8,
)
CODEC = Codec({"save": Save}, max_bytes=1000)
ODD: list[Any] = [
    None,
    "",
    "x",
    b"",
    b"save",
    -1,
    0,
    1,
    2,
    2**62,
    0.0,
    1.0,
    1e13,
    -1e300,
    float("nan"),
]
ODD += [
    float("inf"),
    ID,
    ID + "G",
    ID + "A",
    ID + "0\n",
    ID + "00",
    "{}",
    '{"email":"ä"}',
    '{"email":5}',
]
ODD += [
    '{"email":"\ud800"}',
    '{"email":"a"',
    "[1]",
    "nobody",
    "save\0",
    "damaged: long ago",
    NOW,
    "[]",
]


class FakeLane:
    def __init__(self) -> None:
        self.live: dict[int, Entry] = {}
        self.parked = 0


def read(rows: list[tuple[Any, ...]]) -> tuple[Found, int, list[tuple[Any, ...]]]:
    lane: Any = FakeLane()
    found = revive(lane, rows, CODEC, NOW, frozenset({ID + "d"}))
    entries = [(row, *told(entry, lane)) for row, entry in lane.live.items()]
    return found, lane.parked, entries


def told(entry: Entry, lane: object) -> tuple[Any, ...]:
    assert entry.lane is lane
    names = [name for name in Entry.__slots__ if name not in {"lane", "job"}]
    return (entry.job, [(name, getattr(entry, name)) for name in names])


def odd_row(number: int, odd: dict[int, Any]) -> tuple[Any, ...]:
    row = [number, ID + f"{number:x}", *FRESH[2:]]
    for column, value in odd.items():
        row[column] = value
    return tuple(row)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.dictionaries(st.integers(1, 13), st.sampled_from(ODD), max_size=2), max_size=6))
@example([{1: ID + "1"}, {1: ID + "1"}])
@example([{1: ID + "d"}, {5: 2, 9: NOW - 9, 10: NOW, 11: 3.0}, {7: 1}, {6: 2}])
def test_both_ways_of_reading_a_row_say_the_same(rows: list[dict[int, Any]]) -> None:
    values = [odd_row(number, odd) for number, odd in enumerate(rows, 1)]
    found = read(values)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_takeover, "_is_id", lambda _: None)  # all go the thorough way
        assert read(values) == found


def test_a_row_of_which_nothing_has_become_takes_the_short_way(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def careful(values: Any) -> Any:
        raise AssertionError(values)

    monkeypatch.setattr(_takeover, "read_job", careful)
    _, _, (entry,) = read([FRESH])
    assert entry[1] == Save("john")
