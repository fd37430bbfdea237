"""Counting dead letters: what they failed of, and keeping the counts up to date at little cost."""

import threading
from dataclasses import dataclass, field
from typing import Any

import pytest
from helpers.letters import letter
from hypothesis import given, settings
from hypothesis import strategies as st

from retryexec._shapes import text_shape
from retryexec.journal import ErrorText, JournalError
from retryexec.journal._browse import Sight
from retryexec.web._causes import Cause, cause_of, cause_of_json
from retryexec.web._tally import Counter, Tally


@dataclass
class Shelf:
    """A browser of letters in memory, which counts what is asked of it."""

    letters: dict[tuple[float, str], Any] = field(default_factory=dict)
    version: int | None = 0
    asked: int = 0
    looked: int = 0
    broken: bool = False
    unreadable: dict[Any, str] = field(default_factory=dict)

    def add(self, *numbers: int, **options: Any) -> None:
        for number in numbers:
            row = letter(number, died=float(number), **options)
            self.letters[row.died_at, row.id] = row
        if self.version is not None:
            self.version += 1

    def remove(self, *numbers: int) -> None:
        for place in [place for place in self.letters if place[0] in numbers]:
            del self.letters[place]
        if self.version is not None:
            self.version += 1

    def sights(self, after: Any, size: int) -> list[Sight]:
        self.asked += 1
        if self.broken:
            raise JournalError("the disk is gone")
        places = sorted(place for place in self.letters if after is None or place > after)[:size]
        self.looked += len(places)
        rows = [self.letters[place] for place in places]
        return [Sight(row.died_at, row.id, row.kind, row.errors, row.reason) for row in rows]

    def letter_count(self) -> int:
        return len(self.letters)

    def letter_version(self) -> object:
        return self.version

    def close(self) -> None:
        """Nothing is held."""


class Hands:
    """Time that is moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.worked = 0.0
        self.pauses: list[float] = []

    def __call__(self) -> float:
        return self.now

    def work(self) -> float:
        self.worked += 0.05
        return self.worked


def counter(shelf: Shelf, hands: Hands | None = None) -> Counter:
    hands = hands or Hands()
    opened: Any = shelf
    return Counter(
        lambda: opened, wall=hands, clock=hands, work=hands.work, pause=hands.pauses.append
    )


def counts(tally: Tally) -> dict[tuple[str, str], int]:
    return {(group.kind, group.cause.type): group.count for group in tally.sorted()}


def test_what_has_not_changed_is_not_looked_at_again() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(10))
    counting = counter(shelf, hands)
    assert counts(counting.get(wait=10)) == {("save", "ConnectionError"): 10}
    asked = shelf.asked
    for _ in range(5):
        hands.now += 100
        assert counting.get(wait=10).total == 10
    assert shelf.asked == asked


def test_only_new_letters_are_looked_at() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(2500))
    counting = counter(shelf, hands)
    assert counting.get(wait=10).total == 2500
    shelf.add(3000, 3001, error="ValueError")
    shelf.looked, hands.now = 0, hands.now + 5
    found = counting.get(wait=10)
    assert counts(found) == {("save", "ConnectionError"): 2500, ("save", "ValueError"): 2}
    assert shelf.looked == 2


def test_letters_that_have_gone_are_noticed() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(10))
    counting = counter(shelf, hands)
    counting.get(wait=10)
    shelf.remove(*range(4))
    hands.now += 5
    assert counting.get(wait=10).total == 6


def test_one_that_died_earlier_than_was_known_is_counted() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(5, 6, 7)
    counting = counter(shelf, hands)
    counting.get(wait=10)
    shelf.add(1)
    hands.now += 5
    assert counting.get(wait=10).total == 4


def test_after_an_action_all_is_counted_at_once() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(10))
    counting = counter(shelf, hands)
    counting.get(wait=10)
    shelf.remove(1, 2, 3)
    counting.refresh()
    assert counting.get(wait=10).total == 7


def test_what_is_known_to_have_gone_costs_no_further_look() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(10))
    shelf.add(20, error="ValueError")
    counting = counter(shelf, hands)
    counting.get(wait=10)
    gone = [
        (row.kind, cause_of_json(row.errors, ""), row.died_at) for row in shelf.letters.values()
    ]
    shelf.remove(3, 4, 20)
    shelf.looked = 0
    counting.refresh([one for one in gone if one[2] in {3.0, 4.0, 20.0}])
    found = counting.get(wait=10)
    assert (counts(found), shelf.looked) == ({("save", "ConnectionError"): 8}, 0)


def test_counting_many_makes_pauses() -> None:
    shelf, hands = Shelf(), Hands()
    shelf.add(*range(20_000))
    assert counter(shelf, hands).get(wait=30).total == 20_000
    assert hands.pauses
    assert sum(hands.pauses) == pytest.approx(4 * 0.05 * len(hands.pauses))


def test_a_journal_that_cannot_be_read_is_told_of() -> None:
    shelf = Shelf(broken=True)
    assert counter(shelf).get(wait=10).error == "the disk is gone"


def test_a_reader_does_not_wait_for_the_count() -> None:
    shelf, go_on = Shelf(), threading.Event()
    shelf.add(*range(10))
    original = shelf.sights

    def slowly(after: Any, size: int) -> list[Sight]:
        go_on.wait(10)
        return original(after, size)

    shelf.sights = slowly  # type: ignore[method-assign]
    counting = counter(shelf)
    assert counting.get(wait=0.0).complete is False
    go_on.set()
    assert counting.get(wait=10).total == 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 30)), max_size=20))
def test_whatever_comes_and_goes_the_counts_are_right_in_the_end(
    steps: list[tuple[bool, int]],
) -> None:
    shelf, hands = Shelf(version=None), Hands()
    counting = counter(shelf, hands)
    for comes, number in steps:
        shelf.add(number) if comes else shelf.remove(number)
        hands.now += 100
        counting.get(wait=10)
    hands.now += 1000
    assert counting.get(wait=10).total == len(shelf.letters)


# ---- causes


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gone", "gone"),
        ("two\n lines", "two lines"),
        ("Traceback (most recent call last):\n  x\nlib.Wrong: no\nnot\n", "no not"),
        ("Traceback (most recent call last):\n  x\nWrong\n", ""),
        (
            "Traceback …\nWrong: no\nretryexec: gave up after 1 attempt over 0.000 s: permanent",
            "no",
        ),
        ("Traceback (most recent call last):\n  x\nOther: y\n", "Other: y"),
        ("Wrong: never raised", "never raised"),
    ],
)
def test_the_cause_is_what_the_exception_said(text: str, said: str) -> None:
    assert cause_of([ErrorText(1, 0.0, "Wrong", text)], "max_attempts")[:2] == ("Wrong", said)


def test_without_an_error_the_reason_is_the_cause() -> None:
    assert cause_of([], "crashes") == Cause("(crashes)", "", "")
    assert cause_of_json(None, "crashes") == Cause("(crashes)", "", "")
    assert cause_of_json('[{"at', "max_attempts") == Cause("(max_attempts)", "", "")


@settings(deadline=None)
@given(st.text(), st.text(min_size=1))
def test_any_text_has_a_cause(text: str, name: str) -> None:
    found = cause_of([ErrorText(1, 0.0, name, text)], "")
    assert found.type == name
    assert "\n" not in found.text
    assert len(found.text) <= 300


def test_what_differs_from_job_to_job_is_not_in_the_shape() -> None:
    assert text_shape("GET /users/17: 503 after 3 s") == text_shape("GET /users/9: 502 after 12 s")
    assert text_shape("no 'ana'") == text_shape("no 'bob'")
    assert text_shape("disk full") != text_shape("disk gone")
