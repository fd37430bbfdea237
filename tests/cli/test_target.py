"""TARGET: what is found, and what is said when it is not."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retryexec.cli import main

Refused = Callable[[str], str]


@pytest.fixture
def refused(jobs: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Return what the command says about a TARGET: one line, without a traceback."""

    def refused(target: str) -> str:
        assert main(["run", target, "in.jsonl"]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("retryexec: error: ")
        assert err.count("\n") == 1
        return err.removeprefix("retryexec: error: ").removesuffix("\n")

    return refused


def test_a_class_in_a_file(run: Callable[..., Any], ran: Callable[[], list[Any]]) -> None:
    assert run([{"id": 1}]).status == 0
    assert [job.id for job in ran()] == [1]


def test_a_class_in_a_module_of_the_current_directory(run: Callable[..., Any]) -> None:
    assert run([{"id": 1}], target="jobs:Save").status == 0


def test_a_class_in_a_module_of_a_package(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "shop").mkdir()
    (tmp_path / "jobs.py").rename(tmp_path / "shop" / "jobs.py")
    assert run([{"id": 1}], target="shop.jobs:Save").status == 0


def test_a_file_imports_its_neighbours(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "jobs.py").rename(tmp_path / "sub" / "jobs.py")
    (tmp_path / "sub" / "more.py").write_text("from jobs import Save\n")
    assert run([{"id": 1}], target="sub/more.py:Save").status == 0


def test_a_file_takes_no_other_modules_place(run: Callable[..., Any], tmp_path: Path) -> None:
    import json

    (tmp_path / "jobs.py").rename(tmp_path / "json.py")
    assert run([{"id": 1}], target="json.py:Save").status == 0
    assert sys.modules["json"] is json


def test_annotations_may_be_text(run: Callable[..., Any], tmp_path: Path) -> None:
    text = (tmp_path / "jobs.py").read_text()
    (tmp_path / "jobs.py").write_text("from __future__ import annotations\n" + text)
    assert run([{"id": 1}]).status == 0


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("nowhere.py:Save", "there is no file 'nowhere.py': expected file.py:Class or package"),
        ("nowhere.py", "there is no file 'nowhere.py'"),
        ("nowhere:Save", "there is no module 'nowhere' for 'nowhere:Save': expected file.py:"),
        ("nowhere.at.all:Save", "there is no module 'nowhere' for"),
        ("xml.nowhere:Save", "there is no module 'xml.nowhere' for"),
        (":Save", "':Save' names no file or module"),
        ("", "'' names no file or module"),
        ("..x:Save", "'..x:Save' names no file or module"),
        ("jobs.py:Sav", "jobs.py does not have a class 'Sav'; did you mean 'Save'?"),
        ("jobs.py", "'jobs.py' names no class: expected file.py:Class or package.module:Class, "),
        ("jobs.py:", "'jobs.py:' names no class"),
        ("jobs", "; did you mean jobs:Save or "),
        ("json:Save", "json does not have a class 'Save': expected file.py:Class"),
        ("json:loads", "loads is not a class but <function loads"),
        ("jobs.py:RAN", "RAN is not a class but []"),
        ("json:JSONDecoder", "JSONDecoder is not a dataclass: decorate it with @dataclass"),
    ],
)
def test_bad_targets_are_refused(target: str, said: str, refused: Refused) -> None:
    assert said in refused(target)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("    pass", "Job does not have an exec(): give it the method that does the work"),
        ("    exec: int", "Job does not have an exec()"),
        ("    async def exec(self): ...", "Job.exec is a coroutine function; jobs run on threads"),
        ("    async def exec(self): yield", "Job.exec is a coroutine function"),
        ("    def exec(self): yield", "Job.exec is a generator function, so calling it does noth"),
        (
            "    x: 'Nothing'\n    def exec(self): ...",
            "the fields of Job cannot be read from records: name 'Nothing' is not defined",
        ),
        (
            "    x: dict[int | str, int] | list[int] | tuple[int]\n    def exec(self): ...",
            "the fields of Job cannot be read from records: ",
        ),
    ],
)
def test_targets_that_are_not_jobs_are_refused(
    body: str, said: str, refused: Refused, jobs: Path
) -> None:
    jobs.write_text(f"from dataclasses import dataclass\n@dataclass\nclass Job:\n{body}\n")
    assert said in refused("jobs.py:Job")


@pytest.mark.parametrize(
    ("exec_", "said"),
    [
        ("def exec(self, x): ...", "Job.exec(self, x) cannot be called as exec(), without argum"),
        ("def exec(): ...", "Job.exec() cannot be called as exec(), without arguments"),
        ("def exec(self, *, key): ...", "missing a required "),
        ("@classmethod\n    def exec(cls, x): ...", "cannot be called as exec()"),
        ("@staticmethod\n    def exec(x): ...", "cannot be called as exec()"),
        ("exec: str = ''", "Job does not have an exec(): give it the method that does the work"),
    ],
)
def test_an_exec_that_takes_arguments_is_refused(
    exec_: str, said: str, refused: Refused, jobs: Path
) -> None:
    jobs.write_text(f"from dataclasses import dataclass\n@dataclass\nclass Job:\n    {exec_}\n")
    assert said in refused("jobs.py:Job")


def test_an_abstract_class_is_refused(refused: Refused, jobs: Path) -> None:
    jobs.write_text(
        "import abc\nfrom dataclasses import dataclass\n@dataclass\nclass Job(abc.ABC):\n"
        "    def exec(self): self.save()\n    @abc.abstractmethod\n    def save(self): ...\n"
    )
    assert "Job is abstract: name a class that defines save" in refused("jobs.py:Job")


@pytest.mark.parametrize(
    "exec_",
    [
        "def exec(self, x=1): ...",
        "def exec(self, *args, **kwargs): ...",
        "@staticmethod\n    def exec(): ...",
        "@classmethod\n    def exec(cls): ...",
        "exec = functools.partialmethod(print, 'x')",
        "@given\n    def exec(self, connection): ...",
    ],
)
def test_what_can_be_called_without_arguments_is_run(
    exec_: str, run: Callable[..., Any], jobs: Path
) -> None:
    jobs.write_text(
        "import functools\nfrom dataclasses import dataclass\ndef given(function):\n"
        "    @functools.wraps(function)\n    def call(self): return function(self, 'c')\n"
        f"    return call\n@dataclass\nclass Job:\n    id: int\n    {exec_}\n"
    )
    assert run([{"id": 1}], "-q", target="jobs.py:Job").status == 0


def test_a_class_within_another(run: Callable[..., Any], jobs: Path) -> None:
    inner = jobs.read_text().partition("@dataclass\nclass Save")
    body = "@dataclass\nclass Save" + inner[2].partition("\n\n\n")[0]
    nested = "class Outer:\n" + "".join(f"    {line}\n" for line in body.splitlines())
    jobs.write_text(inner[0] + nested)
    for target in ("jobs.py:Outer.Save", "jobs:Outer.Save"):
        assert run([{"id": 1}], target=target).status == 0


@pytest.mark.parametrize("name", ["my-jobs.py", "my jobs.py", "v1.2.py", "1st.py", "class.py"])
def test_a_file_may_have_any_name(name: str, run: Callable[..., Any], jobs: Path) -> None:
    jobs.rename(jobs.parent / name)
    assert run([{"id": 1}], target=f"{name}:Save").status == 0


@pytest.mark.parametrize("target", ["jobs.py:Job", "jobs:Job"])
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\n\n1 / 0\n", "cannot be imported: ZeroDivisionError: division by zero ({path}, line 3)"),
        ("import nothing_here\n", "ModuleNotFoundError: No module named 'nothing_here' ({path}, l"),
        ("def f():\n  return (\n", "cannot be imported: SyntaxError: '(' was never closed ({path}"),
        ("import sys\nsys.exit(3)\n", "cannot be imported: SystemExit: 3 ({path}, line 2)"),
        ("import json\njson.loads('[')\n", "cannot be imported: JSONDecodeError: Expecting value"),
    ],
)
def test_a_module_that_fails(
    target: str, text: str, said: str, refused: Refused, jobs: Path
) -> None:
    jobs.write_text(text)
    assert said.format(path=jobs) in refused(target)


def test_a_module_that_fails_without_a_line_of_its_own(refused: Refused, jobs: Path) -> None:
    jobs.write_bytes(b"\x00")
    assert "jobs.py cannot be imported: " in refused("jobs.py:Job")


def test_a_module_that_fails_before_its_first_line(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "old.pyc").write_bytes(b"of another Python")
    assert refused("old:Job").startswith("old cannot be imported: ImportError: bad magic number")
