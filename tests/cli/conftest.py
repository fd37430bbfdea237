"""A file of jobs, and the command run over records in this process."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.command import JOBS, Result, jsonl
from helpers.journal_kit import FakeHost, opened

from retryexec.cli import main
from retryexec.journal import Journal

KEPT = ("retryexec.", "rich", "matplotlib", "numpy", "PIL", "msgspec", "psycopg")


@pytest.fixture(autouse=True)
def imports_undone() -> Iterator[None]:
    """Forget what TARGET made importable."""
    path, modules = sys.path[:], set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if not name.startswith(KEPT):
            del sys.modules[name]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
def owner(directory: Path) -> Iterator[tuple[Journal, FakeHost]]:
    """A living owner, of the test's own process."""
    made = opened(directory)
    yield made
    made[0].close()


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of dataclasses that make jobs, in the current directory."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "jobs.py"
    path.write_text(JOBS)
    return path


@pytest.fixture
def ran(jobs: Path) -> Callable[[], list[Any]]:
    """What has been run of the jobs; a file that is loaded again gets another name."""

    def ran() -> list[Any]:
        modules = [sys.modules.get(name) for name in ("jobs", "retryexec_target_jobs")]
        return [job for module in modules if module for job in module.RAN]

    return ran


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """Run the command here and now."""

    def run(*arguments: object) -> Result:
        status = main([str(argument) for argument in arguments])
        return Result(status, *capsys.readouterr())

    return run


@pytest.fixture
def run(jobs: Path, command: Callable[..., Result], tmp_path: Path) -> Callable[..., Result]:
    """Run jobs over records, quickly."""

    def run(
        records: object, *options: object, target: str = "jobs.py:Save", name: str = "in.jsonl"
    ) -> Result:
        data = records if isinstance(records, bytes) else jsonl(*records)  # type: ignore[misc]
        (tmp_path / name).write_bytes(data)
        return command("run", target, name, "--backoff", "zero", *options)

    return run
