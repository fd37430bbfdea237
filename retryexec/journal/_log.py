"""What SQLite leaves out of a damaged log without a word.

A log (``-wal``) is a header and frames: a page each, with a checksum over all that is before it.
At the first frame that is damaged SQLite takes the log to end, as it has to after a power cut in
the middle of a write. So one flipped bit takes the transactions after it away, too, and only the
frames that are still there tell of them. `mended` makes a log of which all frames count.
"""

import struct

_HEADER = struct.Struct(">8I")  # magic, format, page size, number, two salts, two checksums
_FRAME = struct.Struct(">4I")  # page, pages after a commit or 0, two salts; then two checksums
_REST_OF_FRAME = 24
_MAGIC, _FORMAT, _PAGE = 0x377F0682, 3007000, 4096


def transactions_left_out(log: bytes, valid: int) -> int:
    """Return how many transactions of *log* come after its *valid* frames.

    One may be what a power cut has left of a transaction that was never told to be complete.
    """
    _, _, page_size, *_ = _HEADER.unpack_from(log)
    if not is_whole(log):
        page_size, valid = _PAGE, 0
    salts = _salts(log)
    count = 0
    size = _REST_OF_FRAME + page_size
    for number, place in enumerate(range(_HEADER.size, len(log) - _FRAME.size, size)):
        _, pages, *of_frame = _FRAME.unpack_from(log, place)
        if of_frame == salts and pages and number >= valid:
            count += 1
    return count


def mended(log: bytes, *, first_page: bool = True) -> bytes:
    """Return *log* with checksums that are right, whatever is in its frames.

    Args:
        first_page: whether to keep the frames of the first page.
    """
    if len(log) < _HEADER.size + _REST_OF_FRAME:
        return log
    salts = _salts(log)
    header = struct.pack(">6I", _MAGIC, _FORMAT, _PAGE, 0, *salts)
    sums = _checksums(header, (0, 0))
    parts = [header, struct.pack(">2I", *sums)]
    for place in range(_HEADER.size, len(log) - _PAGE, _REST_OF_FRAME + _PAGE):
        frame = log[place : place + _FRAME.size]
        if frame[8:] != header[16:]:
            continue  # a damaged header of a frame costs that frame
        if not first_page and frame[:4] == b"\0\0\0\1":
            continue
        page = log[place + _REST_OF_FRAME : place + _REST_OF_FRAME + _PAGE]
        if len(page) < _PAGE:
            break
        sums = _checksums(frame[:8] + page, sums)
        parts += [frame, struct.pack(">2I", *sums), page]
    return b"".join(parts)


def _salts(log: bytes) -> list[int]:
    """Return what the frames of *log* have in common, as opposed to older ones after them."""
    if is_whole(log):
        return [*_HEADER.unpack_from(log)[4:6]]
    before: list[int] = []
    for place in range(_HEADER.size, len(log) - _FRAME.size, _REST_OF_FRAME + _PAGE):
        _, _, *salts = _FRAME.unpack_from(log, place)
        if salts == before:  # one alone may be damaged
            break
        before = salts
    return before or [0, 0]


def is_whole(log: bytes) -> bool:
    """Return whether the header of *log* is as it was written."""
    header = log[: _HEADER.size]
    if len(header) < _HEADER.size or header[:3] != _MAGIC.to_bytes(4, "big")[:3]:
        return False
    return _checksums(header[:24], (0, 0)) == struct.unpack(">2I", header[24:])


def _checksums(data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    """Return SQLite's checksums of *data*, which follow those of what is before it."""
    words = struct.unpack(f"<{len(data) // 4}I", data)
    one, two = start
    for first, second in zip(words[::2], words[1::2], strict=True):
        one = (one + first + two) & 0xFFFFFFFF
        two = (two + second + one) & 0xFFFFFFFF
    return one, two
