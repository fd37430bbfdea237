"""Take the picture in docs/web.md anew: `.venv/bin/python docs/web_picture.py`.

Of a journal made up for it: 10,000 dead letters of three causes, and two processes.
"""

import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))

from helpers.chromium import browsing, serving  # noqa: E402
from helpers.letters import bury, letter  # noqa: E402

import retryexec.web  # noqa: E402
from retryexec.journal._rows import LetterRow  # noqa: E402


def letters() -> Iterator[LetterRow]:
    chance, now = random.Random(7), time.time()
    for n in range(10_000):
        share = chance.random()
        if share < 0.62:  # an outage that lasted for twenty minutes
            died = now - chance.triangular(900, 2400, 1500)
            text = "database is locked"
            yield letter(
                n, kind="save_activity", error="sqlite3.OperationalError", text=text, died=died
            )
        elif share < 0.93:
            died = now - chance.random() ** 2 * 30_000
            text = (
                f"HTTPSConnectionPool(host='api.example.com', port=443): GET /users/{n}: timed out"
            )
            yield letter(n, kind="notify", error="ConnectTimeout", text=text, died=died)
        else:
            died = now - chance.random() * 90_000
            text = f"not an address: 'user{n}(at)example.com'"
            yield letter(n, kind="set_email", error="ValueError", text=text, died=died, attempts=1)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        place, picture = Path(folder) / "saves", Path(folder) / "web.png"
        bury(place, letters())
        app = retryexec.web.app(place)
        with serving(app) as address, browsing() as browser:
            page = browser.new_page(
                viewport={"width": 1100, "height": 620}, device_scale_factor=1.5
            )
            page.goto(address)
            page.locator(".tile.dead .count", has_text="10,000").wait_for()
            page.evaluate("document.querySelector('.place .mono').textContent = 'var/saves'")
            page.screenshot(path=picture)
        # As many colours as the page has are enough, and a third of the bytes.
        Image.open(picture).convert("RGB").quantize(64).save(HERE / "web.png", optimize=True)


if __name__ == "__main__":
    main()
