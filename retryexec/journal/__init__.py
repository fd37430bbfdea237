"""What survives a crash: a journal of accepted jobs, on disk until they have ended."""

try:
    __import__("msgspec")  # here, so that one message says what to do
except ModuleNotFoundError as error:
    if error.name != "msgspec":
        raise
    msg = "retryexec.journal needs msgspec: pip install 'retryexec[journal]'"
    raise ImportError(msg, name="msgspec") from error

try:
    __import__("fcntl")
except ModuleNotFoundError as error:  # pragma: no cover  not where the tests run
    msg = "retryexec.journal needs the file locks of POSIX (fcntl), which this system does not have"
    raise ImportError(msg, name="fcntl") from error

from retryexec.journal._entry import Entry, Host
from retryexec.journal._errors import JobRefused, JournalError, JournalFull
from retryexec.journal._inspect import DirectoryStats, Inspector, Owner, UnfinishedJob
from retryexec.journal._journal import Journal
from retryexec.journal._letters import DeadLetter, DeadLetters
from retryexec.journal._memory import MemoryJournal
from retryexec.journal._rows import ErrorText
from retryexec.journal._stats import JournalStats

__all__ = [
    "DeadLetter",
    "DeadLetters",
    "DirectoryStats",
    "Entry",
    "ErrorText",
    "Host",
    "Inspector",
    "JobRefused",
    "Journal",
    "JournalError",
    "JournalFull",
    "JournalStats",
    "MemoryJournal",
    "Owner",
    "UnfinishedJob",
]
