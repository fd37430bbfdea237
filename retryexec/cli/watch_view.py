"""What ``retryexec watch`` shows: one frame of a given size, made of one look at a journal."""

import shlex
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retryexec._shapes import shape_of
from retryexec.cli.output import clean, counted, format_duration, format_time
from retryexec.cli.shell import folded, short, with_short_paths
from retryexec.journal import Owner, UnfinishedJob
from retryexec.journal._last_error import last_error
from retryexec.journal._overview import ErrorGroup, Errors, OwnerJobs

_WINDOW = 10.0  # seconds over which rates are taken
_TOLD = 5  # of the things that are wrong
_WORD = 12  # columns that a line may fall short of, where words are not divided
_FIXED = 14  # lines beside owners, errors and what is due
_PLENTY = (30, 30, 15)  # rows of owners, errors and due jobs, where there is no end of lines
_ID = 13  # digits of an id that are shown: what tells jobs apart, and enough for `journal show`
_STATES = ("queued", "running", "waiting", "held", "parked")
_STYLES = {"running": "green", "waiting": "yellow", "held": "yellow", "parked": "red"}


class Look(NamedTuple):
    """What was to be seen of a journal at one moment.

    Attributes:
        at: when, by the wall clock.
        owners: each owner, and where its jobs stand.
        oldest: the job that was accepted first.
        due: the waiting jobs that are due first.
        dead: the dead letters by kind.
        died: how many of them in the last minute, and in the last hour.
        errors: the latest errors by what they have in common.
        unreadable: what has been left out, and why.
        seconds: how long it took to look.
    """

    at: float
    owners: tuple[OwnerJobs, ...]
    oldest: UnfinishedJob | None
    due: tuple[UnfinishedJob, ...]
    dead: "Counter[str]"
    died: tuple[int, int]
    errors: Errors
    unreadable: tuple[str, ...]
    seconds: float

    @property
    def unfinished(self) -> int:
        """How many jobs have not ended."""
        return sum(jobs.unfinished for jobs in self.owners)


class Sizes(NamedTuple):
    """Columns and lines of a frame; as many lines as it takes if *lines* is None."""

    columns: int
    lines: int | None


class Rates:
    """How fast jobs are accepted and end, as far as looks at a journal can tell.

    A journal keeps no history: an owner numbers its jobs as it accepts them, and a job that is not
    there any more has ended.
    """

    def __init__(self, window: float = _WINDOW) -> None:
        self._window = window
        self._numbers: dict[str, int] = {}  # the highest number of each owner so far
        self._accepted = 0  # since the first look
        self._seen: deque[tuple[float, int, int]] = deque()  # time, accepted, unfinished

    def add(self, look: Look) -> None:
        """Take *look* into account."""
        if self._seen and self._seen[-1][0] >= look.at:
            return
        for jobs in look.owners:
            before = self._numbers.get(jobs.owner.name)
            number = max(before or 0, jobs.accepted or 0)
            if self._seen and not (before is None and jobs.accepted is None):
                self._accepted += number - (before or 0)
            self._numbers[jobs.owner.name] = number
        self._seen.append((look.at, self._accepted, look.unfinished))
        while len(self._seen) > 2 and self._seen[1][0] <= look.at - self._window:
            self._seen.popleft()

    def per_second(self) -> tuple[float, float] | None:
        """Return how many are accepted, and how many end; None after one look."""
        if len(self._seen) < 2:
            return None
        (then, accepted, unfinished), (now, *latest) = self._seen[0], self._seen[-1]
        came = latest[0] - accepted
        ended = max(0, came - (latest[1] - unfinished))
        return came / (now - then), ended / (now - then)


class Frame:
    """Draws looks at one journal.

    Args:
        where: the journal, as a directory or as a URL without a password.
        schema: of a journal on a server.
        interval: seconds between two looks.
    """

    def __init__(self, where: str, schema: str, interval: float) -> None:
        self._where = clean(short(where))
        self._interval = interval
        on_server = "" if schema == "retryexec" else f" --schema {shlex.quote(schema)}"
        self._arguments = f"{shlex.quote(self._where)}{on_server}"

    def drawn(
        self, look: Look, rates: Rates | None, sizes: Sizes, *, trouble: str | None = None
    ) -> RenderableType:
        """Return the frame for *look*.

        Args:
            rates: None where nothing is known but this look.
            sizes: of the frame.
            trouble: why there is no newer look.
        """
        told = [*([trouble] if trouble else ()), *(f"left out: {why}" for why in look.unreadable)]
        told = [clean(" ".join(with_short_paths(text).split())) for text in told[:_TOLD]]
        lines = sum(-(-len(text) // max(1, sizes.columns - _WORD)) for text in told)
        owners, errors, due = self._rows(look, sizes.lines, lines)
        parts: list[RenderableType] = [self._title(look, live=rates is not None)]
        parts += [Text(text, style="red", overflow="fold") for text in told]
        if not (look.owners or look.dead):
            but = ", as far as one can see" if told else ""
            words = f"Nothing is unfinished, and there are no dead letters{but}."
            parts += [Text(), Text(words)]
            return Group(*parts)
        parts += [_owners_table(look, owners), *self._summary(look, rates)]
        if look.errors.groups:
            parts += [Text(), _errors_table(look, errors)]
        if look.due:
            parts += [Text(), _due_table(look, due)]
        parts += self._hints(look, sizes)
        return Group(*parts)

    def _rows(self, look: Look, lines: int | None, told: int) -> tuple[int, int, int]:
        """Return how many owners, errors and jobs that are due there is room for."""
        wanted = (len(_owner_rows(look)), len(look.errors.groups), len(look.due))
        if lines is None:
            return (
                min(wanted[0], _PLENTY[0]),
                min(wanted[1], _PLENTY[1]),
                min(wanted[2], _PLENTY[2]),
            )
        room = max(3, lines - _FIXED - told)
        # Errors first: who looks at this wants to know what is wrong.
        rows = [0, 0, 0]
        while room and (short_of := [i for i in (1, 0, 2) if rows[i] < wanted[i]]):
            place = min(short_of, key=lambda i: rows[i] / (2 if i == 1 else 1))
            rows[place] += 1
            room -= 1
        return rows[0], rows[1], rows[2]

    def _title(self, look: Look, *, live: bool) -> RenderableType:
        grid = Table.grid(expand=True)
        grid.add_column(overflow="ellipsis", no_wrap=True, ratio=1)
        grid.add_column(justify="right", no_wrap=True)
        every = f", every {format_duration(max(self._interval, 4 * look.seconds))}" if live else ""
        grid.add_row(
            Text(self._where, style="bold"), Text(f"{format_time(look.at)}{every}", style="dim")
        )
        return grid

    def _summary(self, look: Look, rates: Rates | None) -> Iterator[RenderableType]:
        yield Text()
        minute, hour = look.died
        dead = look.dead.total()
        when = f": {minute:,} in the last minute, {hour:,} in the last hour" if dead else ""
        yield _line(Text(f"{counted(dead, 'dead letter')}{when}", style="bold red" if dead else ""))
        known = rates.per_second() if rates is not None else None
        if known is not None:
            yield _line(Text(f"{_rate(known[0])} accepted, {_rate(known[1])} ended"))
        if look.oldest is not None:
            job = look.oldest
            tried = f", {counted(job.attempts, 'failed attempt')}" if job.attempts else ""
            yield _line(
                Text(
                    f"oldest: {_kind(job.kind)} {job.id[:_ID]}, {_ago(look, job.accepted_at)} old, "
                    f"{job.state}{tried}"
                )
            )

    def _hints(self, look: Look, sizes: Sizes) -> Iterator[RenderableType]:
        """Yield what to type, to see the commonest dead letters and to run them again."""
        chosen = next((group for group in look.errors.groups if group.dead), None)
        if chosen is None:
            return
        words = [f"--kind {shlex.quote(clean(chosen.kind))}"]
        if text := telling_text(chosen, look.errors.groups):
            words.append(f"--error {shlex.quote(clean(text))}")
        yield Text()
        actions = {"dead": "to see the commonest", "rerun": "to run them again"}
        for action, what in [*actions.items()][: 1 if sizes.lines else 2]:
            units = [f"retryexec journal {action}", self._arguments, *words]
            command = folded(units, sizes.columns if sizes.lines else None)
            yield Text(f"{what}: {command}", style="dim", overflow="fold")


def telling_text(group: ErrorGroup, groups: Iterable[ErrorGroup]) -> str:
    """Return what ``--error`` tells the letters of *group* by from those of the other *groups*."""
    alike = [other for other in groups if (other.kind, other.type) == (group.kind, group.type)]
    if len(alike) < 2:
        return group.type
    pieces = shape_of(f"{group.type}: {group.text}").partition(": ")[2].split("…")
    longest = max((piece.strip(" ,;:()[]{}'\"") for piece in pieces), key=len)
    return longest if len(longest) > 3 else group.type


# ---- the tables


def _table(*columns: tuple[str, bool], last: str = "") -> Table:
    """Return a table of *columns*, each with whether it has numbers; a *last* one gives way."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim", expand=bool(last)
    )
    for name, numeric in columns:
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    if last:
        table.add_column(last, no_wrap=True, overflow="ellipsis", ratio=1)
    return table


class _Row(NamedTuple):
    """Owners that are shown as one: a process has several files, and the stopped ones are alike."""

    name: Text
    alive: bool
    numbers: list[int]
    oldest_at: float | None


def _row(name: Text, owners: Sequence[OwnerJobs]) -> _Row:
    numbers = [sum(getattr(jobs, state) for jobs in owners) for state in _STATES]
    oldest = min((jobs.oldest_at for jobs in owners if jobs.oldest_at is not None), default=None)
    return _Row(name, owners[0].owner.alive if owners else False, numbers, oldest)


def _owner_rows(look: Look) -> list[_Row]:
    """Return the owners, those with the most jobs first."""
    by_name: dict[str, list[OwnerJobs]] = {}
    for jobs in look.owners:
        by_name.setdefault(_owner_name(jobs.owner), []).append(jobs)
    rows: list[_Row] = []
    for name, owners in by_name.items():
        several = f" ({len(owners)})" if name == "stopped" and len(owners) > 1 else ""
        style = {"stopped": "red", "not taken yet": "", "parked": ""}.get(name, "green")
        rows.append(_row(Text(f"{name}{several}", style=style), owners))
    return sorted(rows, key=lambda row: -sum(row.numbers))


def _owner_name(owner: Owner) -> str:
    if not owner.alive:
        return {"0": "not taken yet", "-1": "parked"}.get(owner.name, "stopped")
    # On a server, an owner is called by its host and its number.
    host = clean(owner.path.name.rpartition(":")[0])
    at = f" at {host}" if host else ""
    return f"alive{at}" if owner.pid is None else f"pid {owner.pid}{at}"


def _owners_table(look: Look, most: int) -> Table:
    table = _table(("", False), *((name, True) for name in _STATES), ("oldest", True))

    def add(row: _Row, *, bold: bool = False) -> None:
        numbers = [_number(*pair, bold=bold) for pair in zip(_STATES, row.numbers, strict=True)]
        table.add_row(row.name, *numbers, Text(_ago(look, row.oldest_at)))

    add(_row(Text("all jobs", style="bold"), look.owners), bold=True)
    rows = _owner_rows(look)
    shown = rows if len(rows) <= most else rows[: max(0, most - 1)]
    for row in shown:
        add(row)
    if rest := rows[len(shown) :]:
        sums = [sum(column) for column in zip(*(row.numbers for row in rest), strict=True)]
        oldest = min((row.oldest_at for row in rest if row.oldest_at is not None), default=None)
        alive = sum(row.alive for row in rest)
        add(_Row(Text(f"{len(rest):,} more, {alive:,} alive"), False, sums, oldest))
    return table


def _errors_table(look: Look, most: int) -> Table:
    found = look.errors
    columns = (("dead", True), ("retried", True), ("latest", True), ("job", False))
    partly = "" if found.dead >= look.dead.total() else f" (of the latest {found.dead:,} dead)"
    table = _table(*columns, last=f"error{partly}")
    shown = found.groups if len(found.groups) <= most else found.groups[: max(0, most - 1)]
    for group in shown:
        error = f"{group.type}: {group.text}" if group.text else group.type or "(none was kept)"
        error = error if group.alike else shape_of(error)
        table.add_row(
            Text(f"{group.dead:,}", style="red" if group.dead else "dim"),
            Text(f"{group.unfinished:,}", style="yellow" if group.unfinished else "dim"),
            Text(_ago(look, group.last_at)),
            Text(_kind(group.kind)),
            Text(clean(error[:500])),
        )
    if rest := found.groups[len(shown) :]:
        table.add_row(
            Text(f"{sum(group.dead for group in rest):,}"),
            Text(f"{sum(group.unfinished for group in rest):,}"),
            "",
            "",
            Text(f"{len(rest):,} other errors", style="dim"),
        )
    return table


def _due_table(look: Look, most: int) -> Table:
    columns = (("due in", True), ("failed", True), ("job", False), ("", False))
    table = _table(*columns, last="last error")
    for job in look.due[:most]:
        table.add_row(
            Text(_span((job.due_at or 0.0) - look.at)),
            Text(f"{job.attempts:,}"),
            Text(_kind(job.kind)),
            Text(job.id[:_ID]),
            Text(clean(last_error(job.errors)[:500])),
        )
    return table


def _number(name: str, value: int, *, bold: bool = False) -> Text:
    style = _STYLES.get(name, "") if value else "dim"
    return Text(f"{value:,}", style=f"bold {style}" if bold and value else style)


def _kind(kind: str) -> str:
    text = clean(kind)
    return text if len(text) <= 24 else f"{text[:23]}…"


def _ago(look: Look, at: float | None) -> str:
    return "-" if at is None else _span(look.at - at)


def _span(seconds: float) -> str:
    """Return *seconds* in tenths: milliseconds would only flicker."""
    return f"{max(0.0, seconds):.1f} s" if seconds < 59.95 else format_duration(seconds)


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


def _line(text: Text) -> Text:
    text.no_wrap, text.overflow = True, "ellipsis"
    return text
