"""The shape of an error's text: what errors of one cause have in common."""

import re
from functools import lru_cache

# What differs between errors of one cause: quoted values, addresses, paths, anything with a digit.
_QUOTED = re.compile(r"""(?<!\w)'[^']*'(?!\w)|"[^"]*\"""")
_WORD = re.compile(r"[^\s,;()\[\]{}]+")
_VARIES = re.compile(r"[\d@/\\]")


def shape_of(error: str) -> str:
    """Return *error* without what differs between errors of one kind: numbers, names, addresses."""
    kind, colon, text = error.partition(": ")
    return f"{kind}{colon}{text_shape(text)}"


@lru_cache(maxsize=4096)
def text_shape(text: str) -> str:
    """Return what an exception said without what differs between errors of one kind."""
    shape = _QUOTED.sub("…", text)
    return _WORD.sub(lambda word: "…" if _VARIES.search(word[0]) else word[0], shape)
