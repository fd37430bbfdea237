"""What is kept out: other sites, other hosts, strangers, and markup that is not ours."""

import re
from base64 import b64encode
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.letters import letter, write_letters
from helpers.visitor import Visitor, text_of
from starlette.testclient import TestClient

import retryexec.web
from retryexec.journal import Inspector

Visit = Callable[..., Visitor]
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7*7 }}"
PAGES = ("/", "/dead", "/jobs", "/log", "/confirm?verb=rerun&all=1", f"/job/{1:032x}", "/nowhere")


@pytest.fixture
def one(place: Path) -> Path:
    """A journal with one dead letter."""
    write_letters(place, [letter(1)])
    return place


def count(place: Path) -> int:
    return sum(1 for _ in Inspector(place).letters())


# ---- markup


def test_no_text_of_a_job_becomes_markup(place: Path, visit: Visit) -> None:
    fields = {EVIL: EVIL, "n": [EVIL]}
    write_letters(place, [letter(1, kind=EVIL, error=EVIL, text=EVIL, key=EVIL, fields=fields)])
    visitor = visit(redact=lambda kind, fields: fields | {"n": EVIL})
    for path in (*PAGES, "/dead?kind=" + EVIL, "/dead?text=" + EVIL, "/job/" + "z" * 5 + "<b>"):
        page = visitor.client.get(path).text
        assert "<script>alert" not in page, path
        assert "<img src=x" not in page, path
        assert "49" not in text_of(page).replace("{{ 7*7 }}", ""), path


def test_every_answer_has_a_policy_that_forbids_what_is_not_ours(one: Path, visit: Visit) -> None:
    visitor = visit()
    for path in (*PAGES, "/static/page.js", "/static/nothing.js"):
        headers = visitor.client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
    assert visitor.client.get("/").headers["cache-control"] == "no-store"


def test_no_page_loads_anything_from_elsewhere_or_has_inline_code(one: Path, visit: Visit) -> None:
    visitor = visit()
    for path in PAGES:
        page = visitor.client.get(path).text
        loaded = re.findall(r'(?:src|href|action)="([^"]*)"', page)
        assert loaded
        assert all(re.match(r"[/?#]", address) for address in loaded), (path, loaded)
        assert not re.search(r"<script(?! src=)|<style| style=| on\w+=|javascript:", page), path


# ---- other sites


def test_a_form_needs_the_word_of_the_page(one: Path, visit: Visit) -> None:
    visitor = visit()
    right = visitor.token()
    for token in ("", "x" * 32, right[:-1]):
        answer = visitor.post("/do", {"token": token, "verb": "discard", "id": f"{1:032x}"})
        assert answer.status_code == 403
    assert count(one) == 1


def test_a_word_without_its_cookie_is_worth_nothing(one: Path, visit: Visit) -> None:
    visitor = visit()
    token = visitor.token()
    visitor.client.cookies.clear()
    fields = {"token": token, "verb": "discard", "id": f"{1:032x}"}
    assert visitor.post("/do", fields).status_code == 403
    assert count(one) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://testserver.evil.example"},
        {"origin": "http://testserver:81"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site", "origin": "http://testserver"},
    ],
    ids=str,
)
def test_what_another_site_makes_a_browser_send_is_refused(
    one: Path, visit: Visit, headers: dict[str, str]
) -> None:
    visitor = visit()
    fields = {"token": visitor.token(), "verb": "discard", "id": f"{1:032x}"}
    assert visitor.post("/do", fields, headers=headers).status_code == 403
    assert count(one) == 1
    ours = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert visitor.post("/do", fields, headers=ours).status_code == 303


def test_nothing_is_changed_by_a_link(one: Path, visit: Visit) -> None:
    assert visit().status(f"/do?verb=discard&id={1:032x}") == 405
    assert count(one) == 1


def test_the_cookie_is_kept_from_scripts_and_other_sites(one: Path, visit: Visit) -> None:
    cookie = visit().client.get("/").headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    secure = TestClient(retryexec.web.app(one), base_url="https://testserver")
    assert "Secure" in secure.get("/").headers["set-cookie"]


@pytest.mark.parametrize(
    "back", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)"]
)
def test_nobody_is_sent_elsewhere(one: Path, visit: Visit, back: str) -> None:
    visitor = visit()
    fields = {"token": visitor.token(), "verb": "rerun", "id": f"{1:032x}", "back": back}
    assert visitor.post("/do", fields).headers["location"] == "/?did=1"
    assert f'href="{back}"' not in visitor.get("/confirm", verb="rerun", id="1" * 32, back=back)


def test_a_form_that_is_too_long_is_refused(one: Path, visit: Visit) -> None:
    visitor = visit()
    assert visitor.post("/do", {"token": "x" * 6_000_000}).status_code == 400


# ---- other hosts


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "[", "", "10.0.0.7"])
def test_over_loopback_another_name_is_refused(one: Path, host: str) -> None:
    client = TestClient(retryexec.web.app(one), base_url="http://127.0.0.1:8642")
    answer = client.get("/", headers={"host": host})
    assert answer.status_code == 421
    assert "allow-host" in answer.text
    for name in ("127.0.0.1:8642", "localhost:8642", "[::1]:1", "LOCALHOST", "app.localhost"):
        assert client.get("/", headers={"host": name}).status_code == 200, name


def test_only_names_that_are_allowed_are_answered(one: Path) -> None:
    client = TestClient(retryexec.web.app(one, allowed_hosts=["jobs.example.com"]))
    assert client.get("/").status_code == 421
    assert client.get("/", headers={"host": "Jobs.Example.com:443"}).status_code == 200


# ---- passwords


def basic(password: str, user: str = "ana") -> dict[str, str]:
    return {"authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


def test_without_the_password_nothing_is_shown(one: Path) -> None:
    client = TestClient(retryexec.web.app(one, password="höchst geheim"))
    wrong = [{}, basic("geheim"), basic(""), {"authorization": "Basic %%%"}, {"authorization": "B"}]
    for path in (*PAGES, "/static/style.css"):
        for headers in wrong:
            answer = client.get(path, headers=headers)
            assert (answer.status_code, "save" in answer.text) == (401, False)
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert client.get("/", headers=basic("höchst geheim")).status_code == 200


def test_an_empty_password_is_a_mistake(one: Path) -> None:
    with pytest.raises(TypeError, match="not empty"):
        retryexec.web.app(one, password="")


def test_the_log_has_the_name_that_was_given(one: Path) -> None:
    visitor = Visitor(retryexec.web.app(one, password="p"), headers=basic("p", "ana\n<b>"))
    visitor.do("discard", id=f"{1:032x}")
    assert "ana?&lt;b&gt; at testclient" in visitor.get("/log")


# ---- for reading only


def test_read_only_changes_nothing_and_offers_nothing(one: Path, visit: Visit) -> None:
    visitor = visit(read_only=True)
    for path in ("/", "/dead", f"/job/{1:032x}"):
        page = visitor.get(path)
        assert "read only" in page
        assert not re.search(r'<form method="post"|/confirm', page)
    for verb in ("rerun", "discard", "edit", "pause"):
        fields: Any = {"token": visitor.token(), "verb": verb, "id": f"{1:032x}"}
        assert visitor.post("/do", fields).status_code == 403
    assert visitor.status("/confirm?verb=discard&all=1") == 403
    assert count(one) == 1
