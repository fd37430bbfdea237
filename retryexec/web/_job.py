"""A job's page: all that is known of it, and what can be done to it here."""

from dataclasses import dataclass, field

from retryexec.journal import DeadLetter, UnfinishedJob
from retryexec.journal._redact import shown_fields
from retryexec.web._causes import cause_of
from retryexec.web._desk import Desk
from retryexec.web._filter import key_text
from retryexec.web._lines import Line, owner_text
from retryexec.web._words import as_json

_REASONS = {
    "max_attempts": "it had all its attempts",
    "max_elapsed": "its time was up",
    "backoff_exhausted": "the backoff has no further delay",
    "permanent": "its error is permanent",
    "not_retriable": "its error is not one that is tried again",
    "crashes": "its process died too often while it ran",
    "crashed": "its engine died too often while it ran",
}


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that happened to a job, or will.

    Attributes:
        at: seconds of the wall clock; None if nobody knows.
        kind: ``accepted``, ``failed``, ``died``, ``due``.
        title: what it was, in a line.
        text: more of it.
        after: seconds since the one before; None for the first.
    """

    at: float | None
    kind: str
    title: str
    text: str = ""
    after: float | None = None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a job.

    Attributes:
        text: what people may see of it: a text as it is, all else as JSON.
        plain: whether the field holds a text.
        redacted: whether *text* is not what the field holds.
    """

    name: str
    text: str
    plain: bool
    redacted: bool


@dataclass(slots=True)
class Shown:
    """What a job's page shows.

    Attributes:
        verbs: what can be done to it here.
        refusals: what cannot, and why, in sentences.
        editable: whether its fields can be edited.
    """

    id: str
    kind: str
    state: str
    key: str = ""
    version: int | None = None
    reason: str = ""
    note: str = ""
    attempts: int = 0
    crashes: int = 0
    since: float | None = None
    owner: str = ""
    stale: bool = False
    due: float | None = None
    fields: list[Field] | None = None
    withheld: str = ""
    raw: str = ""
    timeline: list[Moment] = field(default_factory=list)
    verbs: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    editable: bool = False


def described(desk: Desk, job: "UnfinishedJob | DeadLetter | None", live: Line | None) -> Shown:
    """Return what the page shows of a job: of its record, and of what lives here."""
    if job is None:
        assert live is not None
        shown = Shown(live.id, live.kind, live.state, live.key)
        shown.withheld = "the job is in no journal, and only what is there is shown"
    else:
        shown = _of_record(desk, job)
    if live is not None and not isinstance(job, DeadLetter):
        _add_live(shown, live)
    elif isinstance(job, DeadLetter):
        _add_letter(desk, shown, job)
    else:
        assert isinstance(job, UnfinishedJob)
        _add_foreign(shown, job)
    before: float | None = None
    timed: list[Moment] = []
    for moment in shown.timeline:
        after = None if before is None or moment.at is None else moment.at - before
        timed.append(Moment(moment.at, moment.kind, moment.title, moment.text, after))
        before = before if moment.at is None else moment.at
    shown.timeline = timed
    return shown


def _of_record(desk: Desk, job: "UnfinishedJob | DeadLetter") -> Shown:
    shown = Shown(job.id, job.kind, "dead", key_text(job.key), job.version)
    shown.attempts, shown.crashes, shown.since = job.attempts, job.crashes, job.accepted_at
    fields, withheld = shown_fields(job, desk.redact)
    shown.withheld = withheld or ""
    if isinstance(fields, dict):
        own = job.fields if isinstance(job.fields, dict) else {}
        shown.fields = [
            Field(
                str(name),
                value if isinstance(value, str) else as_json(value),
                isinstance(own.get(name, value), str),
                name not in own or own[name] != value,
            )
            for name, value in fields.items()
        ]
    elif not shown.withheld:
        shown.raw = as_json(fields)
    shown.timeline.append(Moment(job.accepted_at, "accepted", "Accepted"))
    for error in job.errors:
        cause = cause_of([error], "a result that is tried again")
        title = f"{cause.type}: {cause.text}" if cause.text else cause.type
        text = error.text if "\n" in error.text.strip() or error.text.strip() != cause.text else ""
        shown.timeline.append(
            Moment(error.at, "failed", f"Attempt {error.attempt} failed: {title}", text)
        )
    return shown


def _add_live(shown: Shown, live: Line) -> None:
    """Say how a job is that lives in this process."""
    shown.state, shown.note, shown.owner = live.state, live.note, live.owner
    shown.attempts, shown.due = live.attempts, live.due
    if not shown.timeline and live.cause.type:
        title = f"{live.cause.type}: {live.cause.text}"
        shown.timeline.append(Moment(None, "failed", f"The latest attempt failed: {title}"))
    if live.due is not None:
        shown.timeline.append(Moment(None, "due", "The next attempt is due"))
    if live.state == "waiting":
        shown.verbs = ["retry-now", "postpone", "cancel"]
    elif live.state != "running":
        shown.verbs = ["postpone", "cancel"]
    else:
        shown.refusals.append("An attempt is running, and is left to end.")


def _add_letter(desk: Desk, shown: Shown, letter: DeadLetter) -> None:
    """Say how a dead letter is."""
    shown.reason, shown.stale = letter.reason, letter.stale
    reason = _REASONS.get(letter.reason, letter.reason)
    shown.timeline.append(Moment(letter.died_at, "died", f"Given up: {reason}"))
    shown.verbs = ["rerun", "discard"]
    shown.editable = desk.letters().can_edit(letter.kind) and isinstance(letter.fields, dict)
    if not shown.editable:
        shown.refusals.append(
            f"Its fields cannot be edited here: the class of {letter.kind!r} is not known, so they "
            "could not be checked. Start the page with --class "
            f"{letter.kind}=file.py:Class, or give jobs= to retryexec.web.app()."
        )


def _add_foreign(shown: Shown, job: UnfinishedJob) -> None:
    """Say how a job on disk is that does not live here, and why it is left alone."""
    shown.state, shown.owner = job.state, owner_text(job.owner)
    shown.note = job.parked or ""
    if job.state == "waiting" and job.due_at is not None:
        shown.timeline.append(Moment(job.due_at, "due", "The next attempt is due"))
    if job.state == "parked":
        if not job.owner.alive:
            shown.verbs = ["discard-parked"]
        shown.refusals.append(
            "No process has the class that it takes to run it. One that has takes it up by itself."
        )
    elif job.owner.alive:
        pid = f" (pid {job.owner.pid})" if job.owner.pid is not None else ""
        shown.refusals.append(
            f"It belongs to a living process{pid}, which holds it in its memory: what is on disk "
            "is its safety copy. Only that process can try it now, put it off or cancel it: mount "
            "retryexec.web.app(journal, executor=executor) there."
        )
    else:
        shown.refusals.append(
            "Its process has ended. The next one that opens the journal takes it over and runs it."
        )
