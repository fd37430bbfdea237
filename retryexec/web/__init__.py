"""A page of what runs, waits and died, for a person at an operator's desk."""

for _name in ("jinja2", "starlette"):  # here, so that one message says what to do
    try:
        __import__(_name)
    except ModuleNotFoundError as error:
        if error.name != _name:
            raise
        msg = f"retryexec.web needs {_name}: pip install 'retryexec[web]'"
        raise ImportError(msg, name=_name) from error

from retryexec.web._app import app  # noqa: E402  after the message

__all__ = ["app"]
