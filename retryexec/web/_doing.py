"""The addresses that change something: what is to be done is shown first, and then it is done."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from retryexec.journal import JobRefused
from retryexec.journal._look import discard_parked
from retryexec.web._actions import OF_LETTERS, OF_LIVE, Action, Actions, who_of
from retryexec.web._counting import Counted
from retryexec.web._desk import Desk
from retryexec.web._filter import Filter, duration
from retryexec.web._render import Renderer
from retryexec.web._security import Forms, form_of, safe_address, user_of

_MANY = 20_000  # letters that are not looked at one by one, if they have been counted before
_WAIT = 0.1  # seconds for which a page waits for a count

Form = Mapping[str, Sequence[str]]


class Doing:
    """What the addresses do.

    Args:
        desk: where the jobs are.
        actions: does it, and keeps a log.
        render: makes pages.
    """

    def __init__(self, desk: Desk, actions: Actions, render: Renderer) -> None:
        self._desk = desk
        self._actions = actions
        self._render = render

    async def confirm(self, request: Request) -> Response:
        """Show what is about to be done, and to how many jobs."""
        form: Form = {}
        if request.method == "POST":
            form = await form_of(request)
        else:
            form = {name: [value] for name, value in request.query_params.items()}
        return await run_in_threadpool(self._confirm, request, form)

    def _confirm(self, request: Request, form: Form) -> Response:
        if self._render.read_only:
            return self._refused(request)
        verb = _one(form, "verb")
        if verb not in OF_LETTERS + OF_LIVE:
            msg = f"{verb[:40]!r} is not what can be done to jobs"
            raise ValueError(msg)
        ids = [name for name in form.get("id", ()) if name]
        all_ = _one(form, "all") == "1"
        if not ids and not all_:
            return self._render.message(
                request, 400, "None is chosen", "Choose some jobs, or all that match."
            )
        filter_ = Filter.of({name: values[-1] for name, values in form.items()})
        if not all_:
            counted = Counted(len(ids), complete=True)
        elif verb in OF_LIVE:
            counted = Counted(len(self._desk.live_lines(filter_)), complete=True)
        else:
            # Whatever dies from now on is not meant.
            now = self._desk.wall()
            filter_ = replace(filter_, until=min(now, filter_.until or now))
            counted = self._counted(filter_)
        back = safe_address(request, _one(form, "back"))
        root = str(request.scope.get("root_path", "")).rstrip("/")
        return self._render(
            request,
            "confirm.html",
            verb=verb,
            ids=[] if all_ else ids,
            all=all_,
            filter=filter_,
            words=filter_.without("until").in_words(),
            counted=counted,
            again=f"{root}/confirm?{filter_.query(verb=verb, all='1', back=back)}",
            back=back,
            first=not _one(form, "until"),  # and not what it has been brought up to date by
        )

    def _counted(self, filter_: Filter) -> Counted:
        """Return how many letters are meant: of many, what is known without looking at each."""
        tally = self._desk.tally(wait=_WAIT)
        known: Counted | None = None
        if tally.complete and not filter_.without("kind", "error", "shape", "until"):
            count = sum(
                group.count
                for group in tally.groups.values()
                if filter_.kind in {None, group.kind}
                and filter_.error in {None, group.cause.type}
                and filter_.shape in {None, group.cause.shape}
            )
            known = Counted(count, stale=None, complete=True)
            if count > _MANY:
                return known
        found = self._desk.counting.get(filter_, wait=_WAIT)
        return found if found.complete or known is None else known

    async def do(self, request: Request) -> Response:
        """Do what a form asks for, and go back to where it was."""
        form = await form_of(request)
        if self._render.read_only:
            return self._refused(request)
        if not Forms.is_ours(request, _one(form, "token")):
            return self._render.message(
                request,
                403,
                "This form is not ours, or too old",
                "Go back, load the page again, and send the form from there.",
            )
        return await run_in_threadpool(self._do, request, form)

    def _refused(self, request: Request) -> Response:
        return self._render.message(
            request,
            403,
            "This page is for reading only",
            "It was started with --read-only (read_only=True): nothing can be changed from here.",
        )

    def _do(self, request: Request, form: Form) -> Response:
        client = request.client.host if request.client is not None else None
        who = who_of(client, user_of(request))
        verb = _one(form, "verb")
        steps: dict[str, Callable[[Form, str, str], Action]] = {
            **dict.fromkeys(OF_LETTERS, self._letters),
            **dict.fromkeys(OF_LIVE, self._live),
            "edit": self._edit,
            "discard-parked": self._discard_parked,
            "pause": self._pause,
            "resume": self._pause,
        }
        if verb not in steps:
            msg = f"{verb[:40]!r} is not what can be done to jobs"
            raise ValueError(msg)
        try:
            action = steps[verb](form, verb, who)
        except LookupError as error:
            words = str(error.args[0]) if error.args else "It has gone"
            return self._render.message(request, 404, "It has gone", words)
        except JobRefused as error:
            return self._render.message(
                request, 400, "It cannot be changed so", f"{error}. Nothing was changed."
            )
        back = _back(request, _one(form, "back"), action)
        return RedirectResponse(back, 303)

    def _letters(self, form: Form, verb: str, who: str) -> Action:
        force = _one(form, "force") == "1"
        if _one(form, "all") == "1":
            filter_ = Filter.of({name: values[-1] for name, values in form.items()})
            expected = int(_one(form, "expected") or 0)
            return self._actions.letters(verb, filter_, who=who, expected=expected, force=force)
        ids = list(dict.fromkeys(form.get("id", ())))
        return self._actions.some_letters(verb, ids, who=who, force=force)

    def _live(self, form: Form, verb: str, who: str) -> Action:
        by = duration(_one(form, "by") or "60") if verb == "postpone" else 0.0
        if _one(form, "all") == "1":
            filter_ = Filter.of({name: values[-1] for name, values in form.items()})
            words = filter_.in_words()
            what = f"all that match {words}" if words else "all jobs of this process"
            lines = self._desk.live_lines(filter_)
        else:
            ids = frozenset(form.get("id", ()))
            lines = [line for line in self._desk.live_lines(Filter()) if line.id in ids]
            what = next(iter(ids)) if len(ids) == 1 else f"{len(ids):,} that were chosen"
        return self._actions.live(verb, lines, what, who=who, by=by)

    def _pause(self, form: Form, verb: str, who: str) -> Action:
        number = int(_one(form, "executor") or 0)
        executor = self._desk.executors[number]
        do = executor.pause if verb == "pause" else executor.resume
        return self._actions.once(verb, f"executor {number + 1}", do, who=who)

    def _discard_parked(self, form: Form, verb: str, who: str) -> Action:
        name = _one(form, "id")

        def do() -> None:
            if not discard_parked(self._desk.browser, [name]):
                msg = f"{name} is not a parked record of a process that has ended"
                raise LookupError(msg)

        return self._actions.once(verb, name, do, who=who)

    def _edit(self, form: Form, verb: str, who: str) -> Action:
        name = _one(form, "id")
        changes: dict[str, Any] = {}
        for field, values in form.items():
            kind, colon, column = field.partition(":")
            if kind not in {"text", "json"} or not colon:
                continue
            # A browser sends the end of a line as two characters.
            text = values[-1].replace("\r\n", "\n")
            if text == _one(form, f"was:{column}").replace("\r\n", "\n"):
                continue
            changes[column] = text if kind == "text" else _from_json(column, text)
        if not changes:
            msg = "No field is another one than before. Nothing was changed."
            raise ValueError(msg)
        letters = self._desk.letters()
        what = f"{name} ({', '.join(changes)})"
        action = self._actions.once(verb, what, lambda: letters.edit(name, **changes), who=who)
        if _one(form, "then") == "rerun":
            return self._actions.some_letters("rerun", [name], who=who)
        return action


def _from_json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        msg = f"What stands in {name!r} is not JSON: {error}. Nothing was changed."
        raise JobRefused(msg) from None


def _one(form: Form, name: str) -> str:
    values = form.get(name) or ("",)
    return values[-1]


def _back(request: Request, wanted: str, action: Action) -> str:
    """Return the address to go back to, whatever the form says, which will tell of *action*."""
    parts = urlsplit(safe_address(request, wanted))
    query = [pair for pair in parse_qsl(parts.query) if pair[0] != "did"]
    return f"{parts.path}?{urlencode([*query, ('did', str(action.number))])}"
