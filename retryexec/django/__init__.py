"""A backend for `django.tasks`: Django's background tasks, on an executor that tries them again.

Django has tasks from version 6.0 on, which needs Python 3.12 or newer.
"""

from retryexec.django._backend import RetryingBackend

__all__ = ["RetryingBackend"]
