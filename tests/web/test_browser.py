"""An operator's morning, in Chromium: each thing that can be done, and that nothing else is loaded.

Screenshots for people to look at go to the folder that RETRYEXEC_SCREENSHOTS names.
"""

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from helpers.chromium import browsing, serving
from helpers.letters import letter, write_letters

import retryexec.web
from retryexec import ConstantBackoff, RetryingExecutor, RetryPolicy
from retryexec.journal import Inspector, Journal

pytestmark = [
    pytest.mark.leaks("the browser's driver lives as long as the tests of this file"),
    pytest.mark.timeout(240),
]

BOX = "td input[name=id]"  # what chooses a job
PHONE = {"width": 375, "height": 812}


@dataclass
class Mail:
    email: str
    n: int

    def exec(self) -> None:
        SENT.append(self.email)


SENT: list[str] = []


@pytest.fixture(scope="module")
def chrome() -> Iterator[Any]:
    with browsing() as browser:
        yield browser


@pytest.fixture
def open_page(chrome: Any) -> Iterator[Callable[..., Any]]:
    """Serve an app, and open its page; whatever goes wrong in the browser fails the test."""
    wrong: list[str] = []
    with ExitStack() as stack:

        def open_page(app: Any, path: str = "/", **options: Any) -> Any:
            address = stack.enter_context(serving(app))
            context = chrome.new_context(base_url=address, **options)
            stack.callback(context.close)
            context.set_default_timeout(60_000)
            page = context.new_page()
            page.on("console", lambda said: wrong.append(f"{said.text} ({said.location})"))
            page.on("pageerror", lambda error: wrong.append(str(error)))
            page.on(
                "request",
                lambda asked: None if asked.url.startswith(address) else wrong.append(asked.url),
            )
            page.goto(path)
            return page

        yield open_page
    assert sorted(set(wrong)) == []


def look(page: Any, name: str) -> None:
    """Keep a picture of the page, if anybody wants one."""
    if folder := os.environ.get("RETRYEXEC_SCREENSHOTS"):
        # To hide the caret, each field would get a style of its own, which the page does not allow.
        path = Path(folder) / f"{name}.png"
        page.screenshot(path=path, full_page=True, caret="initial")


@pytest.fixture
def ten_thousand(place: Path) -> Path:
    """Dead letters of three causes: one of them has been mended."""
    now = time.time()

    def rows() -> Iterator[Any]:
        for n in range(10_000):
            died = now - 60 - n / 3
            if n % 10 < 6:
                yield letter(n, kind="mail", text=f"10.0.0.{n % 200}: no route", died=died)
            elif n % 10 < 9:
                yield letter(
                    n,
                    kind="save_activity",
                    error="sqlite3.OperationalError",
                    text="database is locked",
                    died=died,
                )
            else:
                yield letter(n, kind="mail", error="ValueError", text="not an address", died=died)

    write_letters(place, rows())
    return place


def test_an_operators_morning(ten_thousand: Path, open_page: Callable[..., Any]) -> None:
    """Find the cause that has been mended, see what it is, rerun only those, watch them go."""
    SENT.clear()
    place = ten_thousand
    page = open_page(retryexec.web.app(place))
    groups = page.locator("table.groups tbody tr")
    groups.nth(2).wait_for()
    page.locator(".tile.dead .count", has_text=re.compile(r"^10,000$")).wait_for()
    assert [groups.nth(n).locator("a.count").inner_text() for n in range(3)] == [
        "6,000",
        "3,000",
        "1,000",
    ]
    look(page, "overview")
    groups.nth(0).get_by_role("link", name="6,000").click()
    page.locator("table.list").wait_for()
    look(page, "list")
    page.locator("a.open").first.click()
    page.get_by_role("heading", name="What happened").wait_for()
    assert "no route" in page.locator(".timeline").inner_text()
    look(page, "job")
    page.goto("/")
    groups.nth(0).get_by_role("link", name="Rerun…").click()
    page.get_by_role("heading", name="Rerun 6,000 dead letters?").wait_for()
    look(page, "confirm")
    page.get_by_role("button", name="Rerun 6,000").click()
    page.locator(".notice.good", has_text="done: 6,000 jobs").wait_for()
    page.locator(".tile.queued .count", has_text=re.compile(r"^6,000$")).wait_for()
    page.locator(".tile.dead .count", has_text=re.compile(r"^4,000$")).wait_for()
    look(page, "rerun")
    # A process comes to run them, and the page shows it without anybody's doing.
    journal = Journal(place, jobs={"mail": Mail}, durability="process")
    with RetryingExecutor(8, journal=journal) as executor:
        assert executor.recovered.wait(60)
    page.locator(".tile.queued .count", has_text=re.compile(r"^0$")).wait_for()
    assert len(SENT) == 6000
    assert {found.kind for found in Inspector(place).letters()} == {"mail", "save_activity"}


def test_chosen_letters_are_discarded(
    morning: Any, open_page: Callable[..., Any], place: Path
) -> None:
    page = open_page(retryexec.web.app(place), "/dead")
    discard = page.get_by_role("button", name="Discard chosen…")
    assert discard.is_disabled()
    page.locator(BOX).nth(0).check()
    page.locator(BOX).nth(2).check()
    discard.click()
    page.get_by_role("button", name="Discard 2").click()
    page.locator(".notice.good", has_text="done: 2 jobs").wait_for()
    assert page.locator(BOX).count() == 28
    page.locator("[data-all]").check()
    page.get_by_role("button", name="Rerun chosen…").click()
    page.get_by_role("button", name="Rerun 28").click()
    page.get_by_text("No dead letters.").wait_for()
    page.get_by_role("link", name="Log").click()
    page.locator("tbody tr").nth(1).wait_for()
    assert page.locator("tbody tr").count() == 2


def test_a_letter_is_edited_and_rerun(place: Path, open_page: Callable[..., Any]) -> None:
    write_letters(place, [letter(1, kind="mail", text="not an address")])
    page = open_page(retryexec.web.app(place, jobs={"mail": Mail}), f"/job/{1:032x}")
    page.get_by_label("email").fill("ana@example.net")
    page.get_by_role("button", name="Save and rerun").click()
    page.locator(".notice.good", has_text="Rerun").wait_for()
    page.get_by_text("queued", exact=True).wait_for()
    (job,) = Inspector(place).jobs()
    assert job.fields == {"email": "ana@example.net", "n": 1}


def test_letters_are_filtered_and_the_filter_is_taken_back(
    morning: Any, place: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(retryexec.web.app(place), "/dead")
    page.get_by_label("Error says").fill("timed out")
    page.get_by_role("button", name="Filter").click()
    page.wait_for_url("**text=timed**")
    assert page.locator(BOX).count() == 10
    page.get_by_role("link", name="Rerun all that match…").click()
    page.get_by_role("heading", name="Rerun 10 dead letters?").wait_for()
    page.get_by_role("link", name="Not now").click()
    page.get_by_role("link", name="Clear").click()
    page.wait_for_url("**/dead")
    assert page.locator(BOX).count() == 30


def test_the_page_is_brought_up_to_date_until_that_is_stopped(
    place: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(retryexec.web.app(place), "/dead")
    write_letters(place, [letter(1)])
    page.locator("a.open").wait_for()
    page.get_by_role("button", name="Live").click()
    page.get_by_role("button", name="Stopped").wait_for()
    page.evaluate("window.ticks = 0; document.body.addEventListener('tick', () => { ticks++ })")
    write_letters(place, [letter(2)])
    page.wait_for_timeout(3500)  # longer than from one update to the next
    assert page.evaluate("ticks") == 0
    assert page.locator("a.open").count() == 1
    page.reload()
    page.get_by_role("button", name="Stopped").wait_for()  # it stays so
    page.get_by_role("button", name="Stopped").click()
    page.get_by_role("button", name="Live").wait_for()


def test_whoever_is_choosing_is_not_disturbed(place: Path, open_page: Callable[..., Any]) -> None:
    write_letters(place, [letter(1)])
    page = open_page(retryexec.web.app(place), "/dead")
    page.locator(BOX).check()
    page.evaluate("window.ticks = 0; document.body.addEventListener('tick', () => { ticks++ })")
    page.wait_for_timeout(3500)
    assert page.evaluate("ticks") == 0
    page.locator(BOX).uncheck()
    with page.expect_response("**/dead"):
        """Now it is brought up to date again."""


def test_what_is_brought_up_to_date_takes_no_style_from_what_was_there(
    morning: Any, place: Path, open_page: Callable[..., Any]
) -> None:
    """Something else in the browser may style the fields; to copy that breaks the page's policy."""
    page = open_page(retryexec.web.app(place), "/dead")
    page.evaluate(
        """() => new Promise((settled) => {
          document.querySelectorAll("input").forEach((one) => { one.style.caretColor = "red"; });
          document.body.addEventListener("htmx:afterSettle", settled);
        })"""
    )
    assert page.locator("td input[style]").count() == 0


def test_waiting_jobs_of_this_process_are_steered(open_page: Callable[..., Any]) -> None:
    policy = RetryPolicy(max_attempts=None, max_elapsed=None, backoff=ConstantBackoff(3600.0))
    healed: list[bool] = []

    def save(number: int) -> int:
        if not healed:
            raise ConnectionError(f"no route to {number}")
        return number

    with ExitStack() as stack:
        executor = stack.enter_context(
            RetryingExecutor(2, policy=policy, on_retry=lambda event: None)
        )
        stack.callback(executor.shutdown, cancel_futures=True)
        futures = [executor.submit(save, number) for number in range(4)]
        page = open_page(retryexec.web.app(executor=executor), "/jobs?state=waiting")
        page.locator("a.open").nth(3).wait_for()
        look(page, "waiting")

        page.locator(BOX).first.check()
        page.get_by_role("button", name="Postpone chosen…").click()
        page.get_by_label("by", exact=True).fill("2h")
        page.get_by_role("button", name="Postpone 1").click()
        page.get_by_text("in 2 h").wait_for()

        page.locator("a.open").last.click()
        page.get_by_role("link", name="Cancel…").click()
        page.get_by_role("button", name="Cancel 1").click()
        page.locator(".notice.good", has_text="Cancel").wait_for()
        assert sum(future.cancelled() for future in futures) == 1

        healed.append(True)
        page.goto("/jobs")
        page.get_by_role("link", name="Retry now…").click()
        page.get_by_role("button", name="Retry now 3").click()
        page.get_by_text("No unfinished jobs.").wait_for()
        assert sorted(f.result(10) for f in futures if not f.cancelled()) == [
            n for n in range(4) if not futures[n].cancelled()
        ]

        page.get_by_role("link", name="Overview").click()
        page.get_by_role("button", name="Pause").click()
        page.locator(".notice.good", has_text="Pause").wait_for()
        held = executor.submit(save, 5)
        page.locator(".tile.held .count", has_text="1").wait_for()
        page.get_by_role("button", name="Resume").click()
        assert held.result(30) == 5


def test_all_is_reached_by_keyboard(
    morning: Any, place: Path, open_page: Callable[..., Any]
) -> None:
    page = open_page(retryexec.web.app(place), "/dead")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "To the content"
    page.keyboard.press("j")
    page.keyboard.press("j")
    page.keyboard.press("x")
    assert page.locator(BOX).nth(1).is_checked()
    page.keyboard.press("x")
    page.keyboard.press("k")
    page.keyboard.press("/")
    page.keyboard.type("jkx")  # in a field, keys are letters
    assert page.get_by_label("Job", exact=True).input_value() == "jkx"
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="What happened").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(
    morning: Any, place: Path, open_page: Callable[..., Any], scheme: str
) -> None:
    app = retryexec.web.app(place, jobs={"save": Mail})
    page = open_page(app, viewport=PHONE, color_scheme=scheme)
    for path in ("/", "/dead", f"/job/{1:032x}", "/jobs", "/log", "/confirm?verb=rerun&all=1"):
        page.goto(path)
        look(page, f"phone-{scheme}-{path.strip('/').partition('?')[0].partition('/')[0]}")
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, path


def test_texts_without_a_blank_do_not_make_the_page_wide(
    place: Path, open_page: Callable[..., Any]
) -> None:
    word = "w" * 3000
    fields = {word: word, "<b>": [word]}
    write_letters(place, [letter(1, kind=word, error=word, text=word, key=word, fields=fields)])
    page = open_page(retryexec.web.app(place), viewport=PHONE)
    query = f"text={word}&error={word}&key={word}"
    for path in ("/", f"/dead?{query}", f"/job/{1:032x}", f"/confirm?verb=rerun&all=1&{query}"):
        page.goto(path)
        look(page, f"wide-{path.strip('/').partition('?')[0].partition('/')[0]}")
        wide, seen = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert wide <= seen, path[:50]


def test_dark_mode_is_dark(morning: Any, place: Path, open_page: Callable[..., Any]) -> None:
    page = open_page(retryexec.web.app(place), color_scheme="dark")
    page.locator("table.groups tbody tr").first.wait_for()
    look(page, "dark")
    colours = page.evaluate(
        "['backgroundColor', 'color'].map((name) => getComputedStyle(document.body)[name])"
    )
    ground, ink = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in colours)
    assert ground < 120
    assert ink > 600


def test_hostile_texts_stay_texts(place: Path, open_page: Callable[..., Any]) -> None:
    code = "document.title='hacked'"
    evil = f'<img src=/nothing onerror="{code}"><script>{code}</script>'
    write_letters(
        place, [letter(1, kind=evil, error=evil, text=evil, key=evil, fields={evil: evil})]
    )
    page = open_page(retryexec.web.app(place))
    page.locator("table.groups tbody tr").first.wait_for()
    for path in ("/", "/dead", f"/job/{1:032x}"):
        page.goto(path)
        assert "hacked" not in page.title().replace(code, "")
        assert page.locator("img").count() == 1  # our own


def test_with_a_password_the_browser_is_asked(place: Path, open_page: Callable[..., Any]) -> None:
    app = retryexec.web.app(place, password="a secret")
    page = open_page(app, http_credentials={"username": "ana", "password": "a secret"})
    page.get_by_text("No dead letters.").wait_for()
