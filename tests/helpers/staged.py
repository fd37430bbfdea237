"""Staging: something happens just before a method runs."""

from typing import Any

import pytest

from retryexec import ConstantBackoff, RetryPolicy

TENS = RetryPolicy(max_attempts=5, backoff=ConstantBackoff(10))


def before(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, happens: Any) -> None:
    """Let something happen just before a method of *owner* runs, once."""
    method = getattr(owner, name)

    def staged(*args: Any) -> Any:
        monkeypatch.undo()
        happens()
        return method(*args)

    monkeypatch.setattr(owner, name, staged)
