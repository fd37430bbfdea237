"""The fenced code blocks of a Markdown page, for whatever runs the documentation.

A block that cannot run says why, in a comment right before it:

    <!-- not run: needs a server -->
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# A fence ends at the same fence, or with the page when it is never closed.
_BLOCK = re.compile(
    r"(?:^<!-- not run(?P<reason>.*?)-->\s*\n)?"
    r"^(?P<fence>`{3,})(?P<language>[^\n`]*)\n(?P<code>.*?)(?:^(?P=fence)`*[ ]*$|\Z)",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block; *line* is that of its first line of code, from 1."""

    language: str
    code: str
    line: int


def blocks_to_run(page: str, language: str) -> Iterator[Block]:
    """Yield the blocks of *page* in *language*, without those that say why they do not run.

    Raises ValueError for a `not run` comment without a reason.
    """
    for match in _BLOCK.finditer(page):
        line = page.count("\n", 0, match.start("code")) + 1
        if match["language"].strip() != language:
            continue
        if match["reason"] is None:
            yield Block(language, match["code"], line)
        elif not match["reason"].removeprefix(":").strip():
            msg = f"the block at line {line} is not run, and the comment does not say why"
            raise ValueError(msg)
