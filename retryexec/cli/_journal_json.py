"""What ``--json`` says: keys that stay as they are, and times in seconds of the wall clock."""

from typing import Any

from retryexec.journal import DeadLetter, DirectoryStats, ErrorText, UnfinishedJob


def job_as_json(job: UnfinishedJob) -> dict[str, Any]:
    """Return what is shown of an unfinished job, without its fields."""
    return {
        "id": job.id,
        "kind": job.kind,
        "version": job.version,
        "state": job.state,
        "attempts": job.attempts,
        "crashes": job.crashes,
        "accepted_at": job.accepted_at,
        "first_at": job.first_at,
        "due_at": job.due_at,
        "parked": job.parked,
        "owner": job.owner.name,
        "owner_alive": job.owner.alive,
        "owner_pid": job.owner.pid,
        "last_error": error_as_json(job.errors[-1]) if job.errors else None,
    }


def letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    """Return what is shown of a dead letter, without its fields."""
    return {
        "id": letter.id,
        "kind": letter.kind,
        "version": letter.version,
        "state": "dead",
        "reason": letter.reason,
        "attempts": letter.attempts,
        "crashes": letter.crashes,
        "accepted_at": letter.accepted_at,
        "died_at": letter.died_at,
        "last_error": error_as_json(letter.errors[-1]) if letter.errors else None,
    }


def error_as_json(error: ErrorText) -> dict[str, Any]:
    """Return a failed attempt."""
    return {"attempt": error.attempt, "at": error.at, "type": error.type, "text": error.text}


def stats_as_json(stats: DirectoryStats) -> dict[str, Any]:
    """Return counts and sizes."""
    return {
        "unfinished": stats.unfinished,
        "parked": stats.parked,
        "oldest_at": stats.oldest_at,
        "dead": stats.dead.total(),
        "dead_by_kind": dict(stats.dead),
        "dead_bytes": stats.dead_bytes,
        "files": [
            {
                "owner": file.owner.name,
                "owner_alive": file.owner.alive,
                "owner_pid": file.owner.pid,
                "unfinished": file.jobs.total(),
                "unfinished_by_kind": dict(file.jobs),
                "parked": file.parked,
                "oldest_at": file.oldest_at,
                "bytes": file.bytes,
                "wal_bytes": file.wal_bytes,
            }
            for file in stats.files
        ],
    }
