"""Window: how many attempts there were in the last seconds, and how many of them failed."""

# So many outcomes are kept one by one; beyond that, those of one such part of the window are
# kept as one, so a window takes a few kilobytes at most, however many attempts there are.
_CELLS = 256


class Window:
    """Counts attempts and failures over the last *span* seconds."""

    __slots__ = ("_cells", "_span", "attempts", "failures")

    def __init__(self, span: float) -> None:
        self._span = span
        # The time, attempts and failures of each part of the window, oldest first.
        self._cells: list[
            tuple[float, int, int]
        ] = []  # a list, since a deque starts with 600 bytes
        self.attempts = 0
        self.failures = 0

    def __len__(self) -> int:
        """Return how many parts it keeps."""
        return len(self._cells)

    def add(self, now: float, *, failed: bool) -> None:
        """Count an attempt that has just ended."""
        self.expire(now)
        cells = self._cells
        grain = self._span / _CELLS if len(cells) >= _CELLS else 0.0
        if cells and now - cells[-1][0] <= grain:
            time, attempts, failures = cells.pop()
        else:
            time, attempts, failures = now, 0, 0
        cells.append((time, attempts + 1, failures + failed))
        self.attempts += 1
        self.failures += failed

    def expire(self, now: float) -> None:
        """Forget what is older than the window."""
        cells = self._cells
        while cells and now - cells[0][0] >= self._span:
            _, attempts, failures = cells.pop(0)
            self.attempts -= attempts
            self.failures -= failures

    def clear(self) -> None:
        """Forget everything."""
        self._cells.clear()
        self.attempts = self.failures = 0
