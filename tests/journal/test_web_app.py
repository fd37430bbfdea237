"""The web app of docs/journal.md, under gunicorn: what it said yes to is saved, once."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.served import Site, wait_for

GUNICORN = ("gunicorn", "--config", "gunicorn_conf.py", "--workers", "2", "--bind", "fd://FD")


def a_worker_with_saves(site: Site) -> int:
    def its_pid() -> int:
        _, health = site.ask("GET")
        return int(health["pid"]) if health["unfinished"] else 0

    return int(wait_for(its_pid))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "journal_web_app", [*GUNICORN, "saves:app"])
    with site.socket:
        yield site


@pytest.mark.parametrize("options", [[], ["--preload"], ["--threads", "4"]], ids=" ".join)
def test_saves_survive_a_killed_worker(site: Site, options: list[str]) -> None:
    with site.served(*options) as master:
        with site.locked():
            ids = site.save(range(40))
            os.kill(a_worker_with_saves(site), signal.SIGKILL)
            ids += site.save(range(40, 60))  # by the other one, and by the one that follows
            assert site.unfinished() == 60
        wait_for(lambda: len(site.saved()) == 60 and site.unfinished() == 0)
        site.end(master)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())
    assert {email for _, email in site.saved()} == {f"{n}@example.com" for n in range(60)}
    assert list(site.journal.iterdir()) == []


def test_saves_survive_the_end_of_all_processes(site: Site) -> None:
    with site.locked(), site.served() as master:
        ids = site.save(range(20))
        os.killpg(master.pid, signal.SIGKILL)
    assert (len(ids), site.saved(), site.unfinished()) == (20, [], 20)
    with site.served() as master:
        wait_for(lambda: len(site.saved()) == 20 and site.unfinished() == 0)
        site.end(master)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_a_deploy_leaves_to_the_next_what_takes_longer(site: Site) -> None:
    with site.locked():
        with site.served() as master:
            ids = site.save(range(20))
            site.end(master)
        assert site.unfinished() == 20
    with site.served():
        wait_for(lambda: len(site.saved()) == 20 and site.unfinished() == 0)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_what_cannot_be_kept_is_not_accepted(site: Site) -> None:
    with site.served():
        status, answer = site.ask("POST", {"user_email": "john@example.com", "activity": 12})
        assert (status, "activity" in answer["error"]) == (400, True)
        assert site.ask("POST", {"surname": "Doe"})[0] == 400
        status, health = site.ask("GET")
        assert (status, health["unfinished"], health["healthy"]) == (200, 0, True)
