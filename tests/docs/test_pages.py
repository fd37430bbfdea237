"""The Python code in README.md and in the pages of docs/ does what it says."""

import re
import sqlite3
import sys
from contextlib import closing
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest
from helpers.markdown_blocks import blocks_to_run
from helpers.threads import until

import retryexec
import retryexec.engines
import retryexec.journal
import retryexec.testing
import retryexec.web
from retryexec import PermanentError, RetryAfter, RetryingExecutor
from retryexec.journal import Journal
from retryexec.telemetry import opentelemetry, prometheus

ROOT = Path(__file__).parents[2]
PAGES = [
    page
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    if list(blocks_to_run(page.read_text(encoding="utf-8"), "python"))
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_code_of_a_page_runs(
    page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The blocks of a page run in order, as one program in an empty directory."""
    loader = SourceFileLoader("documented", str(page))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    program = module_from_spec(spec)
    monkeypatch.setitem(sys.modules, program.__name__, program)  # dataclasses look it up there
    monkeypatch.chdir(tmp_path)
    for block in blocks_to_run(page.read_text(encoding="utf-8"), "python"):
        # The empty lines make a traceback point at the line of the page.
        code = compile("\n" * (block.line - 1) + block.code, page, "exec")
        exec(code, program.__dict__)  # noqa: S102 (our own documentation)


def test_every_page_with_code_is_found() -> None:
    assert {"README.md", "getting-started.md"} <= {page.name for page in PAGES}


def test_every_public_name_is_documented() -> None:
    pages = (ROOT / "docs" / "api").glob("*.md")
    api = "".join(page.read_text(encoding="utf-8") for page in pages)
    documented = re.findall(r"^\.\. auto\w+:: (\w+)(?:\(\))?$", api, re.MULTILINE)
    packages = (
        retryexec,
        retryexec.engines,
        retryexec.journal,
        retryexec.testing,
        opentelemetry,
        prometheus,
        retryexec.web,
    )
    public = [name for package in packages for name in package.__all__]
    assert sorted(documented) == sorted(public)


@dataclass
class SaveActivity:
    user_email: str
    fails: bool

    def exec(self) -> None:
        raise PermanentError(OSError("gone")) if self.fails else RetryAfter(100)


def test_the_queries_of_the_journal_run_beside_its_owner(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "journal.md").read_text(encoding="utf-8")
    jobs, letters = (
        block.code for block in blocks_to_run(page, "sql") if block.code.startswith("SELECT")
    )
    journal = Journal(tmp_path, jobs={"save_activity": SaveActivity})
    executor = RetryingExecutor(1, journal=journal, on_give_up=lambda event: None)
    waiting = executor.submit(SaveActivity("john@example.com", fails=False))
    dead = executor.submit(SaveActivity("maria@example.com", fails=True))
    until(lambda: len(journal.dead) == 1)  # it is written after its future has ended
    until(lambda: waiting.next_attempt_at is not None)
    assert journal.flush(10)
    (own,) = set(tmp_path.glob("*.db")) - {tmp_path / "dead.db"}
    found = []
    for file, query in ((own, jobs), (tmp_path / "dead.db", letters)):
        with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as database:
            found.append([(row[0], row[1], row[2], row[6]) for row in database.execute(query)])
    executor.shutdown(timeout=0)
    assert found == [
        [(waiting.job_id, "save_activity", "waiting", "john@example.com")],
        [(dead.job_id, "save_activity", "permanent", "maria@example.com")],
    ]


def named_tests(page: str) -> list[tuple[str, str]]:
    """Return the files and functions that a page names, either of them perhaps empty."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return re.findall(r"`(tests/[\w/]+\.py)?(?:(?:::|(?<=`))(test_\w+))?`", text)


@pytest.mark.parametrize(
    ("page", "default"), [("promises.md", ""), ("failure-modes.md", "journal")]
)
def test_the_tests_that_a_page_names_exist(page: str, default: str) -> None:
    """A test that is named without its file is in the folder *default*."""
    folder = [path.read_text(encoding="utf-8") for path in (ROOT / "tests" / default).glob("*.py")]
    named = [(file, test) for file, test in named_tests(page) if file or test]
    assert len(named) > 20
    for file, test in named:
        code = (ROOT / file).read_text(encoding="utf-8") if file else "\n".join(folder)
        assert not test or re.search(rf"^(async )?def {test}\(", code, re.MULTILINE), (file, test)


def test_blocks_are_told_apart_by_language_and_by_line() -> None:
    page = "```python\none\n```\ntext\n```console\n$ two\n```\n````python\n```\nthree\n````\n"
    found = [(block.line, block.code) for block in blocks_to_run(page, "python")]
    assert found == [(2, "one\n"), (9, "```\nthree\n")]


def test_a_block_may_say_why_it_does_not_run() -> None:
    page = "<!-- not run: needs a server -->\n```python\none\n```\n```python\ntwo\n```\n"
    assert [block.code for block in blocks_to_run(page, "python")] == ["two\n"]


@pytest.mark.parametrize("comment", ["<!-- not run -->", "<!-- not run:  -->"])
def test_a_block_that_does_not_say_why_is_an_error(comment: str) -> None:
    with pytest.raises(ValueError, match=r"line 3 .* does not say why"):
        list(blocks_to_run(f"{comment}\n```python\none\n```\n", "python"))
