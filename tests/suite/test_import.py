"""What an import brings with it: counted, since a time would depend on the machine."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import retryexec

EXTRAS = {"asyncio", "msgspec", "rich", "matplotlib", "pydantic", "sqlite3", "ssl", "http", "email"}


def loaded_by(statement: str) -> set[str]:
    code = f"import sys; before = {{*sys.modules}}; {statement}; print(*{{*sys.modules}} - before)"
    return {*subprocess.check_output([sys.executable, "-c", code], text=True).split()}


def ours(modules: set[str]) -> set[str]:
    return {name for name in modules if name.partition(".")[0] == "retryexec"}


def test_the_package_itself_imports_nothing_of_ours() -> None:
    assert ours(loaded_by("import retryexec")) == {"retryexec"}


def test_an_executor_imports_what_it_needs_and_no_more() -> None:
    loaded = loaded_by("from retryexec import RetryingExecutor")
    assert not loaded & EXTRAS
    retrying = {f"retryexec.{name}" for name in ("_retry", "_retrying", "_ticker", "testing")}
    assert not loaded & retrying
    assert len(ours(loaded)) <= 44


def test_a_retried_call_needs_no_pool() -> None:
    loaded = loaded_by("from retryexec import retry, retrying, RetryPolicy")
    assert not {"retryexec._core.pool", "retryexec._executor", "asyncio"} & loaded


def test_each_public_name_is_where_it_is_said_to_be() -> None:
    """For type checkers the names are imported, for programs when first used: the same ones."""
    tree = ast.parse(Path(retryexec.__file__).read_text(encoding="utf-8"))
    imported = {
        alias.name: str(node.module).removeprefix("retryexec.")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("retryexec")
        for alias in node.names
    }
    assert imported == retryexec._HOMES
    assert sorted(imported) == sorted(retryexec.__all__)
    for name in retryexec.__all__:
        assert getattr(retryexec, name).__name__ == name
        assert name in dir(retryexec)


def test_another_name_is_not_an_attribute() -> None:
    with pytest.raises(AttributeError, match="'retryexec' has no attribute 'Executor'"):
        retryexec.Executor  # type: ignore[attr-defined]  # noqa: B018
