"""Flask: a view submits, and answers when the job is on disk.

gunicorn --config gunicorn_settings.py flask_app:app
"""

from dataclasses import asdict
from typing import Any

from background import SaveActivity, saver
from flask import Flask, request

from retryexec.journal import JobRefused, JournalError

app = Flask(__name__)


@app.post("/")
def save() -> tuple[dict[str, str], int]:
    try:
        job = SaveActivity(**request.get_json())
        future = saver().submit(job)  # returns when the job is on disk
    except (TypeError, JobRefused) as error:
        return {"error": str(error)}, 400
    except JournalError as error:  # the disk is full, say: nothing is accepted
        return {"error": str(error)}, 503
    return {"id": future.job_id}, 202


@app.get("/")
def health() -> dict[str, Any]:
    return asdict(saver().stats())
