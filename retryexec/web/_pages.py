"""The pages that show: overview, lists, a job, the log."""

import json
from collections import deque
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from retryexec.journal import DeadLetter
from retryexec.web._actions import VERBS, Actions
from retryexec.web._chart import last_hour
from retryexec.web._desk import PAGE, Desk, Page
from retryexec.web._filter import Filter
from retryexec.web._job import described
from retryexec.web._render import Renderer
from retryexec.web._tally import Group

_GROUPS = 30  # on the overview
_WAIT = 0.1  # seconds for which a page waits for counts to be up to date


class Pages:
    """What the addresses show.

    Args:
        desk: where the jobs are.
        actions: what has been done to them.
        render: makes pages.
    """

    def __init__(self, desk: Desk, actions: Actions, render: Renderer) -> None:
        self._desk = desk
        self._actions = actions
        self._render = render

    def overview(self, request: Request) -> Response:
        """Show how many jobs are where, what failed, and whose jobs there are."""
        desk = self._desk
        desk.forget_problems()
        tally = desk.tally(wait=_WAIT)
        owners = desk.disk()
        groups = tally.sorted()
        return self._render(
            request,
            "overview.html",
            tally=tally,
            groups=groups[:_GROUPS],
            more_groups=len(groups) - _GROUPS,
            largest=max((group.count for group in groups), default=1),
            owners=owners,
            tiles=self._tiles(),
            live=[(number, one.stats()) for number, one in enumerate(desk.executors)],
            chart=last_hour(tally.minutes, desk.wall()),
            filter_of=_filter_of,
        )

    def _tiles(self) -> dict[str, int]:
        """Return how many jobs are in which state."""
        states = ("running", "queued", "waiting", "held", "parked")
        counts: dict[str, int] = dict.fromkeys(states, 0)
        for executor in self._desk.executors:
            stats = executor.stats()
            for state in ("running", "queued", "waiting", "held"):
                counts[state] += getattr(stats, state)
        if self._desk.executors:
            return counts
        for owner in self._desk.disk():
            counts["running"] += owner.running
            counts["waiting"] += owner.waiting
            counts["parked"] += owner.parked
            counts["queued"] += owner.queued + owner.held  # lists do not tell them apart on disk
        return counts

    def jobs(self, request: Request) -> Response:
        """List jobs that have not ended."""
        desk = self._desk
        desk.forget_problems()
        filter_, after = Filter.of(request.query_params), _place(request)
        live = bool(desk.executors) and request.query_params.get("from") != "disk"
        more: dict[str, Any] = {}
        if live:
            lines = desk.live_lines(filter_)
            start = int(after[0]) if after else 0
            end = start + PAGE
            next_ = (end,) if end < len(lines) else None
            page = Page(lines[start:end], next_, len(lines), further=False)
            more = {"matching": len(lines)}
        elif desk.has_journal:
            page = desk.jobs(filter_, after)
        else:
            page = Page([], None, 0, further=False)
        return self._list(request, "jobs.html", filter_, page, live=live, **more)

    def dead(self, request: Request) -> Response:
        """List dead letters."""
        self._desk.forget_problems()
        filter_ = Filter.of(request.query_params)
        page = self._desk.dead(filter_, _place(request))
        return self._list(request, "dead.html", filter_, page, tally=self._desk.tally())

    def _list(
        self, request: Request, template: str, filter_: Filter, page: Page, **more: Any
    ) -> Response:
        follow = (
            None
            if page.next is None
            else filter_.query(
                **{"from": request.query_params.get("from"), "after": json.dumps(page.next)}
            )
        )
        return self._render(
            request,
            template,
            filter=filter_,
            page=page,
            follow=follow,
            first="after" not in request.query_params,
            **more,
        )

    def job(self, request: Request) -> Response:
        """Show all that is known of a job."""
        desk = self._desk
        desk.forget_problems()
        name = request.path_params["job_id"]
        lives = [line for line in desk.live_lines(Filter()) if line.id == name]
        found = desk.find(name)
        ids = {job.id for job in found} | {line.id for line in lives}
        if not ids:
            return self.missing(request, name)
        if len(ids) > 1:
            return self._render(request, "ambiguous.html", ids=sorted(ids), name=name)
        # In the moment between two files a job is in both of them.
        found.sort(key=lambda job: isinstance(job, DeadLetter))
        shown = described(desk, found[-1] if found else None, lives[0] if lives else None)
        return self._render(request, "job.html", job=shown)

    def missing(self, request: Request, name: str) -> Response:
        """Say that there is no such job."""
        return self._render.message(
            request,
            404,
            f"There is no job {name[:80]!r}",
            "It has ended well, was discarded, or never was.",
        )

    def find(self, request: Request) -> Response:
        """Go to the job with an id."""
        name = request.query_params.get("id", "").strip().replace("-", "")
        if not name.isalnum():
            return self.missing(request, name)
        return RedirectResponse(f"{request.scope.get('root_path', '')}/job/{name}", 303)

    def log(self, request: Request) -> Response:
        """Show what was done from here."""
        actions: deque[Any] = self._actions.log
        return self._render(request, "log.html", actions=list(actions), verbs=VERBS)


def _filter_of(group: Group) -> Filter:
    """Return the filter that is met by the letters of *group*, and by no others."""
    return Filter(kind=group.kind, error=group.cause.type, shape=group.cause.shape)


def _place(request: Request) -> tuple[Any, ...] | None:
    """Return where a page begins.

    Raises:
        ValueError: that is not a place.
    """
    text = request.query_params.get("after")
    if not text:
        return None
    found = json.loads(text)
    if not isinstance(found, list) or not 1 <= len(found) <= 2:
        msg = f"{text[:80]!r} is not a place in a list"
        raise ValueError(msg)
    return tuple(found)
