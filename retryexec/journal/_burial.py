"""Making dead letters of jobs that have finally failed, before their rows go."""

import logging
from typing import NamedTuple

from retryexec.journal._batch import NEW, STORED, Answers
from retryexec.journal._entry import DONE, Entry
from retryexec.journal._store import Store

logger = logging.getLogger("retryexec.journal")


class Burial(NamedTuple):
    """What became of some entries that were to be dead letters.

    Attributes:
        buried: those whose rows may go now.
        postponed: those that could not be written now.
        error: what kept these from it; None if nothing did.
    """

    buried: list[Entry]
    postponed: list[Entry]
    error: Exception | None


def bury(store: Store, answers: Answers, dying: list[Entry], now: float) -> Burial:
    """Write dead letters of *dying*, each once; one that cannot be written costs itself alone."""
    try:
        store.letters.insert([entry.as_letter(now) for entry in {e.id: e for e in dying}.values()])
    except Exception as error:
        if store.is_unavailable(error):
            return Burial([], dying, error)
        if len(dying) == 1:
            return _bury_plainly(store, answers, dying[0], error, now)
        middle = len(dying) // 2
        first = bury(store, answers, dying[:middle], now)
        second = bury(store, answers, dying[middle:], now)
        return Burial(
            first.buried + second.buried,
            first.postponed + second.postponed,
            first.error or second.error,
        )
    stored = []
    for entry in dying:
        entry.outcome = DONE  # as far as its own lane is concerned
        if entry.state is NEW:
            answers.end(entry)
        elif entry.state is STORED:
            stored.append(entry)
    return Burial(stored, [], None)


def _bury_plainly(
    store: Store, answers: Answers, entry: Entry, error: Exception, now: float
) -> Burial:
    """Write a letter without what may be wrong with it, if it had anything of that kind."""
    outcome = entry.outcome
    assert outcome is not None
    if outcome.errors:
        logger.error("the errors of job %s cannot be kept: %r", entry.id, error)
        entry.outcome = outcome._replace(errors=())
        return bury(store, answers, [entry], now)
    logger.error(
        "no dead letter can be made of job %s, which is run again after the next start: %r",
        entry.id,
        error,
    )
    if entry.state is NEW:
        answers.end(entry)
    return Burial([], [], None)
