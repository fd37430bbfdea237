"""A backend for `django.tasks`: Django's background tasks, on an executor that tries them again.

Django has tasks from version 6.0 on, which needs Python 3.12 or newer.
"""

from importlib.util import find_spec

if find_spec("django") is None or find_spec("django.tasks") is None:
    msg = (
        "retryexec.django needs Django 6, which needs Python 3.12: pip install 'retryexec[django]'"
    )
    raise ImportError(msg)

from retryexec.django._backend import RetryingBackend

__all__ = ["RetryingBackend"]
