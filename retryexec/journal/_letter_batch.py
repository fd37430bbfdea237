"""Writing the dead letters of a batch, before the rows of its jobs go."""

import logging
from typing import NamedTuple

from retryexec.journal._batch import NEW, STORED, Answers
from retryexec.journal._entry import DONE, Entry
from retryexec.journal._store import Store

logger = logging.getLogger("retryexec.journal")


class LetterBatch(NamedTuple):
    """What became of some entries that were to be dead letters.

    Attributes:
        written: those whose rows may go now.
        postponed: those that could not be written now.
        error: what kept these from it; None if nothing did.
    """

    written: list[Entry]
    postponed: list[Entry]
    error: Exception | None


def write_letters(store: Store, answers: Answers, failed: list[Entry], now: float) -> LetterBatch:
    """Write dead letters of *failed*, each once; one that cannot be written stops no other."""
    try:
        store.letters.insert([entry.as_letter(now) for entry in {e.id: e for e in failed}.values()])
    except Exception as error:
        if store.is_unavailable(error):
            return LetterBatch([], failed, error)
        if len(failed) == 1:
            return _write_without_errors(store, answers, failed[0], error, now)
        middle = len(failed) // 2
        first = write_letters(store, answers, failed[:middle], now)
        second = write_letters(store, answers, failed[middle:], now)
        return LetterBatch(
            first.written + second.written,
            first.postponed + second.postponed,
            first.error or second.error,
        )
    stored = []
    for entry in failed:
        entry.outcome = DONE  # as far as its own lane is concerned
        if entry.state is NEW:
            answers.end(entry)
        elif entry.state is STORED:
            stored.append(entry)
    return LetterBatch(stored, [], None)


def _write_without_errors(
    store: Store, answers: Answers, entry: Entry, error: Exception, now: float
) -> LetterBatch:
    """Write a letter without its errors, if it had any: they may be what cannot be written."""
    outcome = entry.outcome
    assert outcome is not None
    if outcome.errors:
        logger.error("the errors of job %s cannot be kept: %r", entry.id, error)
        entry.outcome = outcome._replace(errors=())
        return write_letters(store, answers, [entry], now)
    logger.error(
        "no dead letter can be made of job %s, which is run again after the next start: %r",
        entry.id,
        error,
    )
    if entry.state is NEW:
        answers.end(entry)
    return LetterBatch([], [], None)
