"""Django, in one file: a view submits, and answers when the job is on disk.

gunicorn --config gunicorn_settings.py django_app:application
"""

import json
import os
from dataclasses import asdict

from background import SaveActivity, saver
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt

from retryexec.journal import JobRefused, JournalError

settings.configure(
    SECRET_KEY=os.environ.get("DJANGO_SECRET_KEY", "an example has no secrets"),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
)


def activities(request: HttpRequest) -> HttpResponseBase:
    return save(request.body) if request.method == "POST" else JsonResponse(asdict(saver().stats()))


def save(body: bytes) -> HttpResponseBase:
    try:
        job = SaveActivity(**json.loads(body))
        future = saver().submit(job)  # returns when the job is on disk
    except (ValueError, TypeError, JobRefused) as error:
        return JsonResponse({"error": str(error)}, status=400)
    except JournalError as error:  # the disk is full, say: nothing is accepted
        return JsonResponse({"error": str(error)}, status=503)
    return JsonResponse({"id": future.job_id}, status=202)


urlpatterns = [path("", csrf_exempt(activities))]
application = get_wsgi_application()
