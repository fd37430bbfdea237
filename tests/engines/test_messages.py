"""Messages between a pool and its processes."""

import os
import threading
from multiprocessing import Pipe

import pytest

from retryexec.engines._messages import HEADER, SHORT, receive, send


@pytest.mark.parametrize("size", [0, 1, SHORT - HEADER, SHORT, SHORT + 1, 5_000_000])
def test_a_message_of_any_length_comes_as_it_was_sent(size: int) -> None:
    message = os.urandom(size)
    ours, theirs = Pipe()
    with ours, theirs:
        sender = threading.Thread(target=send, args=(ours, message))
        sender.start()  # a long one is not taken before it is read
        assert receive(theirs) == message
        sender.join()


def test_a_message_that_comes_in_pieces_is_put_together() -> None:
    message = b"a message"
    ours, theirs = Pipe()
    with ours, theirs:
        whole = len(message).to_bytes(HEADER, "big") + message
        received: list[bytes] = []
        reader = threading.Thread(target=lambda: received.append(receive(theirs)))
        reader.start()
        for i in range(len(whole)):
            os.write(ours.fileno(), whole[i : i + 1])
        reader.join()
        assert received == [message]


@pytest.mark.parametrize("sent", [0, HEADER - 1, HEADER + 2])
def test_a_message_that_ends_before_its_length_is_an_end_of_file(sent: int) -> None:
    ours, theirs = Pipe()
    with theirs:
        os.write(ours.fileno(), ((9).to_bytes(HEADER, "big") + b"a message")[:sent])
        ours.close()
        with pytest.raises(EOFError):
            receive(theirs)


def test_what_is_sent_to_a_side_that_has_closed_fails() -> None:
    ours, theirs = Pipe()
    with ours:
        theirs.close()
        with pytest.raises(OSError):  # noqa: PT011  of any kind
            send(ours, b"a message")
