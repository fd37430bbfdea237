"""What a policy may be given that fails when it is used."""

from typing import Any


class Moody:
    """A value that raises when it is asked whether it is true."""

    def __bool__(self) -> bool:
        raise OverflowError("do not ask")


def raiser(exception: type[BaseException]) -> Any:
    """Return a function that raises *exception*, whatever it is called with."""

    def fail(*_: Any) -> Any:
        raise exception

    return fail
