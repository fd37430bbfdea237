"""The web apps of docs/in-a-web-app.md, each by its real server: what they said yes to is saved."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from helpers.served import Site, locked, wait_for

GUNICORN = ("gunicorn", "--config", "gunicorn_settings.py", "--bind", "fd://FD")
UVICORN = ("uvicorn", "--fd", "FD")
COMMANDS = {
    "fastapi": (*UVICORN, "fastapi_app:app"),
    "flask": (*GUNICORN, "flask_app:app"),
    "django": (*GUNICORN, "django_app:application"),
}
JOHN = {"user_email": "john@example.com", "activity": "Login"}


@pytest.fixture(params=COMMANDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "web_apps", COMMANDS[request.param])
    with site.socket:
        yield site


def test_what_was_accepted_is_saved_once(site: Site) -> None:
    with site.served() as server:
        ids = site.save(range(20))
        wait_for(lambda: len(site.saved()) == 20 and site.unfinished() == 0)
        status, health = site.ask("GET")
        assert (status, health["waiting"]) == (200, 0)
        site.end(server)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())
    assert list(site.journal.iterdir()) == []


def test_saves_survive_a_kill_9(site: Site) -> None:
    with site.locked(), site.served() as server:
        ids = site.save(range(10))
        os.killpg(server.pid, signal.SIGKILL)
        server.wait(30)
    assert (site.saved(), site.unfinished()) == ([], 10)
    with site.served():
        wait_for(lambda: len(site.saved()) == 10 and site.unfinished() == 0)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_a_deploy_leaves_to_the_next_what_takes_longer(site: Site) -> None:
    with site.locked(), site.served() as server:
        ids = site.save(range(10))
        site.end(server)
    assert (site.saved(), site.unfinished()) == ([], 10)
    with site.served():
        wait_for(lambda: len(site.saved()) == 10 and site.unfinished() == 0)
    assert sorted(ids) == sorted(id_ for id_, _ in site.saved())


def test_what_is_not_a_job_is_refused(site: Site) -> None:
    with site.served():
        for body in ({**JOHN, "activity": 12}, {"surname": "Doe"}, [1], "{"):
            status, _ = site.ask("POST", body)
            assert status in (400, 422), body
        assert site.ask("POST", JOHN)[0] == 202
        wait_for(lambda: len(site.saved()) == 1)


@pytest.fixture
def fastapi(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, "web_apps", COMMANDS["fastapi"])
    with site.socket:
        yield site


def own_file(site: Site) -> Path:
    """Return the journal's file of the app, which it has once it has accepted a job."""
    site.save(range(1))
    wait_for(lambda: site.unfinished() == 0)
    (own,) = set(site.journal.glob("*.db")) - {site.journal / "dead.db"}
    return own


def test_no_request_blocks_the_event_loop(fastapi: Site) -> None:
    """Many saves wait for a disk that does not move, and the loop answers others all the while."""
    with fastapi.served() as server, ThreadPoolExecutor(20) as clients:
        with locked(own_file(fastapi), "IMMEDIATE"):
            saves = [clients.submit(fastapi.ask, "POST", JOHN) for _ in range(20)]
            # All of them are with the app by then: its jobs are run, and none is on disk.
            wait_for(lambda: fastapi.ask("GET")[1]["succeeded"] == 21)
            assert not any(save.done() for save in saves)
        assert {save.result(20)[0] for save in saves} == {202}
        wait_for(lambda: len(fastapi.saved()) == 21)
        fastapi.end(server)


def test_saves_under_way_are_answered_before_the_app_ends(fastapi: Site) -> None:
    with fastapi.served() as server, ThreadPoolExecutor(4) as clients:
        with locked(own_file(fastapi), "IMMEDIATE"):
            saves = [clients.submit(fastapi.ask, "POST", JOHN) for _ in range(4)]
            wait_for(lambda: fastapi.ask("GET")[1]["succeeded"] == 5)
            server.terminate()
        assert {save.result(20)[0] for save in saves} == {202}
        fastapi.end(server)
    assert (len(fastapi.saved()), fastapi.unfinished()) == (5, 0)
