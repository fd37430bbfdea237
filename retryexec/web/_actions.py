"""What is done to jobs from the page: to one, to some, or to all that match; and the log of it."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from retryexec import RetryFuture
from retryexec.journal import JournalError
from retryexec.web._desk import Desk
from retryexec.web._filter import Filter
from retryexec.web._lines import Line

logger = logging.getLogger("retryexec.web")

_KEPT = 500  # actions in the log
_BATCH = 5000  # letters that are changed in one transaction
_AT_ONCE = 1.0  # seconds for which whoever asks waits for the end

OF_LETTERS = ("rerun", "discard")
OF_LIVE = ("retry-now", "postpone", "cancel")
VERBS = {
    "rerun": "Rerun",
    "discard": "Discard",
    "edit": "Edit",
    "discard-parked": "Discard",
    "retry-now": "Retry now",
    "postpone": "Postpone",
    "cancel": "Cancel",
    "pause": "Pause",
    "resume": "Resume",
}
"""What can be done, as buttons have it."""


@dataclass
class Action:
    """Something that was done, or is being done.

    Attributes:
        number: of the action, from 1.
        at: when it began, in seconds of the wall clock.
        who: asked for it.
        verb: one of `VERBS`.
        what: to which jobs, in words.
        expected: how many jobs it was to be done to, as was shown before.
        done: how many it has been done to.
        left: how many it was not done to, since it could not be.
        ended: whether it has ended.
        error: why it ended early; empty if it did not.
    """

    number: int
    at: float
    who: str
    verb: str
    what: str
    expected: int
    done: int = 0
    left: int = 0
    ended: bool = False
    error: str = ""
    over: threading.Event = field(default_factory=threading.Event, repr=False)

    @property
    def words(self) -> str:
        """What came of it, in a line."""
        return f"{VERBS[self.verb]}: {self.what}"


class Actions:
    """Does what is asked for, in threads of their own, and keeps a log.

    Args:
        desk: where the jobs are.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._numbers = count(1)
        # One at a time: two that rerun the same letters would only be in each other's way.
        self._turn = threading.Lock()
        self.log: deque[Action] = deque(maxlen=_KEPT)

    def letters(
        self, verb: str, filter_: Filter, *, who: str, expected: int, force: bool = False
    ) -> Action:
        """Rerun or discard all letters that are meant."""
        words = filter_.in_words()
        what = f"all that match {words}" if words else "all dead letters"
        return self._start(
            self._action(verb, what, who, expected),
            lambda action: self._all(action, filter_, force=force),
        )

    def some_letters(
        self, verb: str, ids: Sequence[str], *, who: str, force: bool = False
    ) -> Action:
        """Rerun or discard the letters with these ids."""
        what = ids[0] if len(ids) == 1 else f"{len(ids):,} that were chosen"

        def do(action: Action) -> None:
            for start in range(0, len(ids), _BATCH):
                self._change(action, ids[start : start + _BATCH], force=force)
            action.left = len(ids) - action.done

        return self._start(self._action(verb, what, who, len(ids)), do)

    def live(self, verb: str, lines: Iterable[Line], what: str, *, who: str, by: float) -> Action:
        """Steer jobs of this process.

        Args:
            by: seconds to postpone them.
        """
        chosen = [line.future for line in lines if line.future is not None]

        def do(action: Action) -> None:
            for future in chosen:
                if _steer(future, verb, by):
                    action.done += 1
                else:
                    action.left += 1

        return self._start(self._action(verb, what, who, len(chosen)), do)

    def once(self, verb: str, what: str, do: Callable[[], object], *, who: str) -> Action:
        """Do one thing here and now.

        Raises:
            Exception: what *do* raises, and nothing was done.
        """
        action = self._action(verb, what, who, 1)
        try:
            do()
            action.done = 1
        except Exception as error:
            action.error = " ".join(str(error).split())
            raise
        finally:
            self._end(action)
        return action

    # ---- how it is done

    def _action(self, verb: str, what: str, who: str, expected: int) -> Action:
        action = Action(next(self._numbers), self._desk.wall(), who, verb, what, expected)
        self.log.appendleft(action)
        return action

    def _start(self, action: Action, do: Callable[[Action], None]) -> Action:
        def run() -> None:
            try:
                with self._turn:
                    do(action)
            except Exception as error:
                action.error = " ".join(str(error).split()) or type(error).__name__
            finally:
                self._end(action)

        threading.Thread(target=run, name=f"retryexec-web-{action.verb}", daemon=True).start()
        action.over.wait(_AT_ONCE)
        return action

    def _end(self, action: Action) -> None:
        self._desk.look_again()
        action.ended = True
        logger.info(
            "%s by %s: %d of %d jobs (%s)%s",
            action.verb,
            action.who,
            action.done,
            action.expected,
            action.what,
            f": {action.error}" if action.error else "",
        )
        action.over.set()

    def _all(self, action: Action, filter_: Filter, *, force: bool) -> None:
        batch: list[Line] = []
        for lines in self._desk.chosen(filter_):
            for line in lines:
                if line.stale and action.verb == "rerun" and not force:
                    action.left += 1
                else:
                    batch.append(line)
            if len(batch) >= _BATCH:
                self._change_lines(action, batch, force=force)
                batch = []
        self._change_lines(action, batch, force=force)

    def _change_lines(self, action: Action, lines: Sequence[Line], *, force: bool) -> None:
        if not lines:
            return
        before = action.done
        self._change(action, [line.id for line in lines], force=force)
        if action.done - before == len(lines):
            self._desk.look_again(lines)

    def _change(self, action: Action, ids: Sequence[str], *, force: bool) -> None:
        letters = self._desk.letters()
        if action.verb == "discard":
            action.done += letters.discard_some(ids)
            return
        try:
            action.done += letters.rerun_some(ids, force=force)
        except JournalError:
            # One has become stale since it was looked at: then one by one, without those.
            for name in ids:
                try:
                    action.done += letters.rerun_some([name], force=force)
                except JournalError:
                    action.left += 1


def _steer(future: RetryFuture[Any], verb: str, by: float) -> bool:
    """Do to the job of *future* what *verb* says; return whether it could be done."""
    if verb == "retry-now":
        return future.retry_now()
    if verb == "postpone":
        return future.postpone(by)
    return future.cancel()


def who_of(client: str | None, user: str | None) -> str:
    """Return who asks, for the log."""
    return f"{user} at {client}" if user and client else user or client or "somebody"
