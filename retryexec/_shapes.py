"""The shape of an error's text: what errors of one cause have in common."""

import re
from functools import lru_cache

# What differs between errors of one cause: quoted values, addresses, paths, anything with a digit.
_QUOTED = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*\"""")
_WORD = re.compile(r"[^\s,;()\[\]{}]+")
_VARIES = re.compile(r"[\d@/\\]")


@lru_cache(maxsize=1000)
def shape_of(error: str) -> str:
    """Return *error* without what differs between errors of one kind: numbers, names, addresses."""
    kind, colon, text = error.partition(": ")
    text = _WORD.sub(
        lambda word: "…" if _VARIES.search(word[0]) else word[0], _QUOTED.sub("…", text)
    )
    return f"{kind}{colon}{text}"
