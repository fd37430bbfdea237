"""The ASGI app: which address shows what."""

import os
import sqlite3
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from retryexec import RetryingExecutor
from retryexec.journal import Journal, JournalError
from retryexec.journal._redact import Redact
from retryexec.web._actions import Actions
from retryexec.web._desk import Desk
from retryexec.web._doing import Doing
from retryexec.web._pages import Pages
from retryexec.web._render import Renderer
from retryexec.web._security import Guarded

_HERE = Path(__file__).parent


def app(
    where: "str | os.PathLike[str] | Journal | None" = None,
    *,
    executor: "RetryingExecutor | Iterable[RetryingExecutor] | None" = None,
    jobs: Mapping[str, type] | None = None,
    redact: Redact | None = None,
    read_only: bool = False,
    password: str | None = None,
    allowed_hosts: Sequence[str] | None = None,
    schema: str = "retryexec",
) -> Starlette:
    """Return the page of a journal, of executors that live here, or of both, as an ASGI app.

    Serve it by uvicorn, or mount it: ``fastapi_app.mount("/jobs", retryexec.web.app(journal))``.
    It asks nobody for a password unless it is given one: let your own app decide who gets there.

    Args:
        where: the directory or URL of a journal, or the Journal itself, which is in a directory.
        executor: one that lives in this process, or several: their jobs are shown as they are at
            this moment, and can be tried now, put off, cancelled and paused.
        jobs: the classes of the jobs, as `Journal` has them; without these, fields of dead letters
            cannot be edited, since they cannot be checked. A Journal brings its own.
        redact: called with a kind and its fields, returns what people may see of them. A Journal
            brings its own.
        read_only: whether nothing can be changed from the page.
        password: asked for by the browser, with any name; None asks nobody.
        allowed_hosts: names that the page may be called by. By default all of them, but that a
            request which came in over loopback has to name ``localhost`` or the like.
        schema: of a journal on PostgreSQL.

    Raises:
        TypeError: an argument cannot be right; the message names it.
        JournalError: there is no journal there, or it cannot be looked into.
    """
    executors = _checked_executors(executor)
    letters = where.dead if isinstance(where, Journal) else None
    place = _directory_of(where) if isinstance(where, Journal) else where
    if place is None and not executors:
        msg = "app() shows a journal or an executor: name a directory, a URL, or executor="
        raise TypeError(msg)
    if password == "" or not isinstance(password, (str, type(None))):
        msg = "password takes a text that is not empty, or None for no password"
        raise TypeError(msg)
    desk = Desk(
        place, executors=executors, letters=letters, jobs=jobs, redact=redact, schema=schema
    )
    actions = Actions(desk)
    render = Renderer(desk, actions, read_only=read_only)
    pages, doing = Pages(desk, actions, render), Doing(desk, actions, render)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        yield
        desk.close()

    routes = [
        Route("/", pages.overview, name="overview"),
        Route("/jobs", pages.jobs, name="jobs"),
        Route("/dead", pages.dead, name="dead"),
        Route("/job/{job_id}", pages.job, name="job"),
        Route("/log", pages.log, name="log"),
        Route("/find", pages.find, name="find"),
        Route("/confirm", doing.confirm, methods=["GET", "POST"], name="confirm"),
        Route("/do", doing.do, methods=["POST"], name="do"),
        Mount("/static", StaticFiles(directory=_HERE / "static"), name="static"),
    ]
    made = Starlette(
        routes=routes,
        middleware=[Middleware(Guarded, password=password, hosts=allowed_hosts)],
        exception_handlers=_handlers(render),
        lifespan=lifespan,
    )
    made.state.desk = desk
    desk.close_with(made)  # one that is mounted hears of no end
    return made


def _handlers(render: Renderer) -> dict[Any, Any]:
    """Return what answers where something is wrong: in words, with a status of its own."""

    def unreadable(request: Request, error: Exception) -> Response:
        text = " ".join(str(error).split()) or type(error).__name__
        return render.message(request, 503, "The journal cannot be read", text)

    def refused(request: Request, error: Exception) -> Response:
        return render.message(request, 400, "That cannot be done", " ".join(str(error).split()))

    def missing(request: Request, _: Exception) -> Response:
        return render.message(request, 404, "There is no such page", "The overview has them all.")

    return {
        JournalError: unreadable,
        OSError: unreadable,
        sqlite3.Error: unreadable,
        ValueError: refused,
        404: missing,
    }


def _directory_of(journal: Journal) -> "os.PathLike[str]":
    try:
        return journal.directory
    except JournalError as error:
        msg = f"{error}: give app() its URL, and jobs= and redact= as the journal has them"
        raise JournalError(msg) from None


def _checked_executors(value: object) -> tuple[RetryingExecutor, ...]:
    if value is None:
        return ()
    found = (value,) if isinstance(value, RetryingExecutor) else value
    if isinstance(found, Iterable):
        executors = tuple(found)
        if all(isinstance(one, RetryingExecutor) for one in executors):
            return executors
    msg = f"executor takes a RetryingExecutor, or several (got {value!r})"
    raise TypeError(msg)
