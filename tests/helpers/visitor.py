"""Somebody who looks at the web page, without a browser."""

from __future__ import annotations

import re
from html import unescape
from typing import Any
from urllib.parse import urlencode

from starlette.testclient import TestClient

_FORM = "application/x-www-form-urlencoded"


class Visitor:
    """Loads pages of *app*, and sends the forms that are on them."""

    def __init__(self, app: Any, *, root: str = "", **options: Any) -> None:
        self.client = TestClient(app, follow_redirects=False, **options)
        self.root = root

    def get(self, path: str, **query: Any) -> str:
        """Return the page at *path*, which is there."""
        answer = self.client.get(self.root + path, params=query or None)
        assert answer.status_code == 200, answer.text
        return str(answer.text)

    def status(self, path: str, **options: Any) -> int:
        return int(self.client.get(self.root + path, **options).status_code)

    def token(self) -> str:
        """Return the word that forms have to bring back."""
        self.get("/")
        return str(self.client.cookies["retryexec-csrf"])

    def post(self, path: str, fields: Any, **options: Any) -> Any:
        headers = {
            "content-type": "application/x-www-form-urlencoded",
            **options.pop("headers", {}),
        }
        body = urlencode(fields, doseq=True)
        return self.client.post(self.root + path, content=body, headers=headers, **options)

    def do(self, verb: str, **fields: Any) -> str:
        """Do something as a form does it, and return the page that comes then, without markup."""
        answer = self.post(
            "/do", {"token": self.token(), "verb": verb, "back": f"{self.root}/", **fields}
        )
        assert answer.status_code == 303, answer.text
        followed = self.client.get(answer.headers["location"])
        return text_of(str(followed.text))


def text_of(page: str) -> str:
    """Return what people read of a page."""
    body = page.partition("<main")[2]
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", body)).split())


def rows_of(page: str) -> list[str]:
    """Return what people read of each row of the page's tables."""
    return [
        " ".join(unescape(re.sub(r"<[^>]*>", " ", row)).split())
        for row in re.findall(r"<tr>(.*?)</tr>", page, re.DOTALL)
        if "<td" in row
    ]
