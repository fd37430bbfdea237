"""Exceptions raised by the journal."""


class JournalError(Exception):
    """The journal cannot do what was asked of it; nothing has been half done."""


class JournalFull(JournalError):
    """There is no room on the disk for another job. What was accepted before is safe."""


class JobRefused(JournalError, TypeError):
    """This job would not come back from the disk as it is, so the journal does not take it."""


class Undecodable(JournalError):
    """A record that no registered class can be made of; it is kept until one can."""


class Newer(JournalError):
    """A later version of the library has written this file."""


class Lost(Exception):
    """A lane is gone or damaged: nobody would find what is written to it."""


class Fenced(Lost):
    """A lane has been taken from this process, which lives: what was in it is somebody else's.

    Attributes:
        landed: rows that were written, and taken with the others.
        unsure: of the rows to be inserted that are not among these, nobody can say whether they
            have been written, and been run by somebody since.
    """

    def __init__(
        self, message: str, landed: frozenset[int] = frozenset(), *, unsure: bool = False
    ) -> None:
        super().__init__(message)
        self.landed = landed
        self.unsure = unsure
