"""The fields of a job, as a user's redactor lets people see them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retryexec.journal._inspect import UnfinishedJob
    from retryexec.journal._letters import DeadLetter

Redact = Callable[[str, dict[str, Any]], Mapping[str, Any]]
"""Called with the kind and the fields of a job; returns the fields to show."""


def shown_fields(job: UnfinishedJob | DeadLetter, redact: Redact | None) -> tuple[Any, str | None]:
    """Return the fields of *job* as people may see them, and why they may not if they may not."""
    if redact is None:
        return job.fields, None
    if not isinstance(job.fields, dict):
        return None, "they do not have names that a redactor could tell them by"
    try:
        shown = dict(redact(job.kind, dict(job.fields)))
        json.dumps(shown, default=str)
    except Exception as error:  # its text might hold what must not be seen
        return None, f"the redactor failed: {type(error).__name__}"
    return shown, None
