"""Taking over: what dead processes have left, and what was put for whoever comes first.

Rows are taken in lots, and `SKIP LOCKED` lets several processes share them. Of what was put, a
process takes about as much as it runs in half a second, so that the others get their part.
"""

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import psycopg

from retryexec.journal._codec import Codec
from retryexec.journal._entry import Entry
from retryexec.journal._store import Taken
from retryexec.journal._takeover import NOBODY, Found, Mark, judge, revive, sort
from retryexec.journal.postgres._arrays import Int8s, UUIDs
from retryexec.journal.postgres._connection import Connection, Database, Link, is_passing
from retryexec.journal.postgres._lane import PostgresLane
from retryexec.journal.postgres._letters import storable
from retryexec.journal.postgres._schema import FREE, LIFE_BITS, PARKED
from retryexec.journal.postgres._statements import Statements

logger = logging.getLogger("retryexec.journal")

LOT = 1000  # rows in one transaction
ENOUGH = 10_000  # jobs in hand with which a process takes over no more, for now
_RATION = 30  # times as long as a look has taken that found nothing, until the next one
FEW, MANY = 64, 5000  # put jobs that a process has in hand, at least and at most
_AHEAD = 0.5  # seconds of work that it takes


class Lot:
    """Entries that have just been taken, before they join the lane."""

    def __init__(self, lane: PostgresLane) -> None:
        self.lane = lane
        self.live: dict[int, Entry] = {}
        self.parked = 0
        self.suspects: list[Entry] = []


class Taker:
    """Takes over for one process; for one thread at a time.

    Args:
        lease: seconds for which nobody is declared dead after the server was away: they could not
            renew their leases either.
    """

    def __init__(
        self,
        database: Database,
        statements: Statements,
        codec: Codec,
        *,
        lease: float,
        max_crashes: int,
        wall: Callable[[], float],
    ) -> None:
        self._database = database
        self._sql = statements
        self._codec = codec
        self.grace = lease
        self._max_crashes = max_crashes
        self._wall = wall
        self._link = Link(database)
        self._unsure = False  # whether rows may have been taken without anybody knowing
        self._judge_after = 0.0
        self._water = -1  # the highest row of those put that was taken here
        self._full_after = 0.0
        # Dead lives of which nothing is left, and when to look again. While somebody's transaction
        # is open they are kept, and so are their entries, which a look comes across.
        self._emptied = set[int]()
        self._emptied_after = 0.0
        # Up to which row each of them has been taken over; none for a look from the first row on.
        self._reached: dict[int, int] = {}
        self._parked_after: int | None = 0  # where to go on among parked rows; None once through
        self._claimed_at = monotonic()
        self._claimed_runs = 0
        self._rate = 0.0

    def wait_a_lease(self) -> None:
        """Declare nobody dead for one lease: the server was away, for all of us."""
        self._judge_after = monotonic() + self.grace

    def close(self) -> None:
        """Close the connection, and begin anew with the next use."""
        self._link.close()
        self._parked_after = 0

    def forget_after_fork(self) -> None:
        """In a forked child: leave the connection to the parent."""
        self._link.forget_after_fork()

    # ---- one look

    def take(self, lane: PostgresLane, seen: set[str]) -> Taken | None:
        """Take one lot; None if there is nothing more for now.

        Args:
            seen: the lanes that have been found empty in this round, which grows.

        Raises:
            JournalError: the server cannot be asked, or refuses to answer.
        """
        try:
            connection = self._link.get()
            if self._link.losses:
                self._link.losses = 0
                self.wait_a_lease()
            if self._unsure:
                taken = self._take_orphans(connection, lane)
                if taken is not None:
                    return taken
            for source, crashes in self._sources(connection, lane):
                while str(source) not in seen:
                    self._unsure = True
                    taken = self._take_lot(connection, lane, source, crashes, seen)
                    self._unsure = False
                    if taken is not None:
                        return taken
        except psycopg.Error as error:
            if is_passing(error):
                self._link.drop()
            raise self._database.explained(error) from error
        return None

    def _take_orphans(self, connection: Connection, lane: PostgresLane) -> Taken | None:
        """Find what was taken as the connection was lost, so that nobody here knows of it."""
        # Before the question: a row that is known now may have ended when the answer comes.
        known = {*lane.live}
        first, last = lane.life << LIFE_BITS, (lane.life + 1) << LIFE_BITS
        rows = connection.execute(self._sql["mine"], [lane.life, first, last]).fetchall()
        orphans = [row for row in rows if row[0] not in known]
        taken = self._joined(connection, lane, orphans, put=False) if orphans else None
        self._unsure = False
        return taken

    def _sources(self, connection: Connection, lane: PostgresLane) -> list[tuple[int, int]]:
        values = {"me": lane.life, "grace": self.grace}
        found = connection.execute(self._sql["gone"], values).fetchall()
        if any(not dead for _, _, dead in found) and monotonic() >= self._judge_after:
            self._declare_dead(connection, lane)
            found = connection.execute(self._sql["gone"], values).fetchall()
        sources = [(life, crashes) for life, crashes, dead in found if dead]
        self._emptied.intersection_update(life for life, _ in sources)
        if monotonic() < self._emptied_after:
            sources = [source for source in sources if source[0] not in self._emptied]
        if self._parked_after is not None:
            sources.append((PARKED, 0))
        return [*sources, (FREE, 0)]

    def _declare_dead(self, connection: Connection, lane: PostgresLane) -> None:
        """Declare those dead whose leases have run out, and judge whose fault that may be."""
        with connection.transaction():
            values = {"me": lane.life, "grace": self.grace}
            gone = connection.execute(self._sql["expired"], values).fetchall()
            for life, host, pid, running, crashes in gone:
                logger.warning(
                    "process %d of %s has not renewed its lease: its jobs in %s are taken over",
                    pid,
                    host,
                    self._database.name,
                )
                self._judge(connection, life, running, crashes)

    def _judge(self, connection: Connection, life: int, running: list[int], crashes: int) -> None:
        at_work = dict(zip(running[::2], running[1::2], strict=True))
        marks: list[Mark] = []
        if at_work:
            rows = connection.execute(self._sql["marks"], [life, Int8s.of(at_work)]).fetchall()
            # One that has failed since was not at work any more.
            marks = [Mark(row, known) for row, known, n in rows if at_work[row] == n]
        verdict = judge(marks, crashes)
        if verdict.blamed:
            connection.execute(self._sql["blame"], [life, Int8s.of(verdict.blamed)])
        if verdict.serial:
            most = min(verdict.serial, 1_000_000)
            connection.execute(self._sql["serial"], {"lane": life, "most": most})

    # ---- one lot

    def _take_lot(  # noqa: C901  one source after the other
        self,
        connection: Connection,
        lane: PostgresLane,
        source: int,
        crashes: int,
        seen: set[str],
    ) -> Taken | None:
        """Take rows of *source*; None if none of them is for this process, or there are none."""
        began = monotonic()
        if source == FREE:
            rows = self._claim(connection, lane, seen)
        elif len(lane.live) >= ENOUGH:
            lane.call_when_below(ENOUGH // 2)
            seen.add(str(source))
            return None
        else:
            if crashes:
                # Told before any of them may end this process, too.
                lane.inherit(crashes)
                connection.execute(self._sql["inherit"], [crashes, lane.life])
            rows = self._rows(connection, lane, source, seen)
            if source == PARKED:
                if len(rows) < LOT:
                    seen.add(str(source))
            elif f"{source} keyed" not in seen:
                seen.add(f"{source} keyed")
                if not rows:
                    return None  # it has none with keys; the others come next
            elif len(rows) == LOT:
                self._reached[source] = max(row[0] for row in rows)
            elif self._reached.pop(source, None) is None:
                seen.add(str(source))
        if not rows:
            lane.inherit(0)
            if source > FREE and str(source) in seen:
                connection.execute(self._sql["forget"], [source])
                now = monotonic()
                self._emptied.add(source)
                self._emptied_after = max(now, self._emptied_after) + _RATION * (now - began)
            return None
        rows.sort(key=lambda row: row[0])
        taken = self._joined(connection, lane, rows, put=source == FREE)
        lane.inherit(0)
        return taken

    def _rows(
        self, connection: Connection, lane: PostgresLane, source: int, seen: set[str]
    ) -> list[Any]:
        values: dict[str, Any] = {"me": lane.life, "lane": source, "most": LOT}
        values["after"] = self._reached.get(source, -1)
        name = "take" if f"{source} keyed" in seen else "take_keyed"
        if source == PARKED:
            name, values["kinds"] = "take_parked", self._codec.kinds
            values["after"] = self._parked_after
        rows = connection.execute(self._sql[name], values).fetchall()
        if source == PARKED:
            self._parked_after = max(row[0] for row in rows) if len(rows) == LOT else None
        return rows

    def _joined(
        self,
        connection: Connection,
        lane: PostgresLane,
        rows: list[Any],
        *,
        put: bool,
    ) -> Taken | None:
        """Make entries of *rows*, which are this process's now; None if there is nothing to run."""
        lot = Lot(lane)
        ids = UUIDs.of([row[1] for row in rows])
        died = {name for (name,) in connection.execute(self._sql["written_letters"], [ids])}
        found = revive(lot, rows, self._codec, self._wall(), died)  # type: ignore[arg-type]
        self._write_down(connection, lane, found, lot, rows)
        alone = frozenset(mark.row for mark in found.marks)
        taken = sort(lot, NOBODY, self._max_crashes, alone)  # type: ignore[arg-type]
        for entry in lot.live.values():
            entry.lane = lane
        lane.parked += lot.parked
        if not lane.join(lot.live, lot.suspects, put=put) or not lot.live:
            return None
        return Taken(lane, taken.free, taken.dead)

    def _write_down(
        self, connection: Connection, lane: PostgresLane, found: Found, lot: Lot, rows: list[Any]
    ) -> None:
        """Put aside what cannot be run here, and remove what has its end elsewhere."""
        if found.gone:
            connection.execute(self._sql["delete_some"], [lane.life, Int8s.of(found.gone)])
        back = [row for why, row in found.parked if why is None]
        if back:
            connection.execute(self._sql["unpark"], [lane.life, Int8s.of(back)])
        reasons = {row: storable(why) for why, row in found.parked if why is not None}
        gone = set(found.gone)
        parked = [
            (reasons.get(row[0]), row[0])
            for row in rows
            if row[0] not in lot.live and row[0] not in gone
        ]
        if parked:
            logger.warning("%s: %d records parked, the rest is run", lane, len(parked))
            with connection.transaction():
                for why, row in parked:
                    connection.execute(self._sql["park"], [why, lane.life, row])

    # ---- what was put

    def _claim(self, connection: Connection, lane: PostgresLane, seen: set[str]) -> list[Any]:
        """Take rows that were put, as many as this process can do with."""
        room = self._wanted(lane) - len(lane.hand)
        if room <= 0:
            lane.call_when_low(max(1, len(lane.hand) // 2))
            seen.add(str(FREE))
            return []
        most = min(LOT, room)
        began = monotonic()
        whole = began >= self._full_after
        after = -1 if whole else self._water
        values = {"me": lane.life, "lane": FREE, "after": after, "most": most}
        rows = connection.execute(self._sql["claim"], values).fetchall()
        if whole:
            # Over entries that no vacuum may remove yet this takes its time, and must not take
            # much of all time.
            now = monotonic()
            self._full_after = now + _RATION * (now - began)
        if rows:
            self._water = max(self._water, *(row[0] for row in rows))
        if len(rows) < most:
            seen.add(str(FREE))
            if not whole and lane.look_at is not None:
                # For a transaction that has come later than others with higher numbers.
                lane.look_at(self._full_after)
        return rows

    def _wanted(self, lane: PostgresLane) -> int:
        """Return how many put jobs to have in hand: about what is run in half a second."""
        now, runs = monotonic(), lane.runs
        passed = now - self._claimed_at
        if passed > 0.01:
            rate = (runs - self._claimed_runs) / passed
            self._rate = max(rate, self._rate / 2)
            self._claimed_at, self._claimed_runs = now, runs
        return max(FEW, min(MANY, int(self._rate * _AHEAD)))
