"""Makes pages of templates: everything that comes from outside is escaped there."""

import json
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from retryexec.web import _words
from retryexec.web._actions import VERBS, Actions
from retryexec.web._desk import Desk
from retryexec.web._security import COOKIE, Forms

_HERE = Path(__file__).parent
# htmx is told to evaluate nothing, to fetch from nowhere else and to set no styles, as the policy
# of the page is. Else it would copy, to what it brings up to date, the style that an element got
# from something else in the browser.
_HTMX = json.dumps(
    {
        "allowEval": False,
        "allowScriptTags": False,
        "attributesToSettle": [],
        "includeIndicatorStyles": False,
        "selfRequestsOnly": True,
        "historyCacheSize": 0,
    }
)


class Renderer:
    """Makes pages.

    Args:
        desk: what the pages are about.
        actions: what has been done to the jobs.
        read_only: whether nothing can be changed from the pages.
    """

    def __init__(self, desk: Desk, actions: Actions, *, read_only: bool) -> None:
        self.read_only = read_only
        self._desk = desk
        self._actions = actions
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )

        def ago(at: float | None) -> Markup:
            return _words.ago(at, desk.wall())

        filters: dict[str, Any] = self._environment.filters
        filters.update(age=_words.age, ago=ago, moment=_words.moment, number=_words.number)
        filters.update(jobs=_words.jobs, json=_words.as_json)
        names: dict[str, Any] = self._environment.globals
        names.update(verbs=VERBS, htmx=_HTMX)

    def __call__(
        self, request: Request, template: str, *, status: int = 200, **values: Any
    ) -> Response:
        """Return the page of *template*."""
        root = str(request.scope.get("root_path", "")).rstrip("/")
        word = Forms.word(request)
        query = f"?{request.url.query}" if request.url.query else ""
        desk = self._desk
        text = self._environment.get_template(template).render(
            root=root,
            here=request.url.path + query,
            page_name=template.removesuffix(".html"),
            token=word,
            where=desk.where,
            has_journal=desk.has_journal,
            executors=desk.executors,
            read_only=self.read_only,
            problems=desk.problems(),
            action=self._action(request),
            **values,
        )
        response = HTMLResponse(text, status)
        if request.cookies.get(COOKIE) != word:
            response.set_cookie(
                COOKIE,
                word,
                path=root or "/",
                secure=request.url.scheme == "https",
                httponly=True,
                samesite="strict",
            )
        return response

    def message(self, request: Request, status: int, title: str, text: str) -> Response:
        """Return a page that says one thing."""
        return self(request, "message.html", status=status, title=title, text=text)

    def _action(self, request: Request) -> Any:
        """Return the action to be told of: the one that was just asked for, or one under way."""
        asked = request.query_params.get("did", "")
        for action in list(self._actions.log):
            if str(action.number) == asked or not action.ended:
                return action
        return None
