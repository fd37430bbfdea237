"""Count the words of many texts, in other processes, one of which is killed meanwhile.

python count_words.py         in processes of this machine
python count_words.py dask    on a cluster of Dask, which is started here
"""

import os
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from retryexec import RetryingExecutor
from retryexec.engines import dask, processes

TEXTS = sorted(Path(__file__).parent.glob("*.py")) + sorted(Path(__file__).parents[1].glob("*.md"))


class CountWords:
    """A job: it is pickled, and so is what it returns."""

    def __init__(self, text: Path, killed: Path) -> None:
        self.text = text
        self.killed = killed

    def exec(self) -> Counter[str]:
        if self.text.name == "index.md" and not self.killed.exists():
            # As the kernel does with a process when memory runs out.
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Counter(self.text.read_text(encoding="utf-8").split())


@contextmanager
def engine(name: str) -> Generator[Any]:
    if name == "dask":
        import distributed

        start: Any = distributed.LocalCluster  # which has no types
        with start(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
            yield dask(cluster)
    else:
        yield processes(2)


def main(name: str) -> None:
    with tempfile.TemporaryDirectory() as folder, engine(name) as attempts_on:
        killed = Path(folder, "killed")
        with RetryingExecutor(attempts_on=attempts_on) as executor:
            futures = [executor.submit(CountWords(text, killed)) for text in TEXTS]
            words = sum((future.result() for future in futures), Counter[str]())
        print(f"{len(TEXTS)} texts, {words.total()} words, and most of them are 'the':", end=" ")
        print(words["the"] == max(count for word, count in words.items() if word.isalpha()))
        print(f"killed: {killed.exists()}")
        print(f"attempts of each: {sorted({future.attempts for future in futures})}")


# Other processes import this file to find CountWords, and must not do the rest again.
if __name__ == "__main__":
    main(*sys.argv[1:] or ["processes"])
