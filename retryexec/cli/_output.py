"""Standard output: what the command was run for."""

import os
import sys


def show(text: str) -> None:
    """Print *text*, whatever standard output can or cannot encode, and whether it still listens."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # As `head` does once it has seen enough. The interpreter would flush again at its exit,
        # and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
