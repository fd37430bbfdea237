"""A web app that puts a job in its own transaction: both are committed, or neither.

uvicorn app:app
"""

import psycopg
from fastapi import FastAPI, HTTPException
from jobs import DATABASE, JOBS, SendWelcome
from pydantic import BaseModel

from retryexec.journal import Journal

# It only puts, so it has no executor, and no thread.
journal = Journal(DATABASE, jobs=JOBS)
app = FastAPI()


class NewUser(BaseModel):
    email: str


@app.post("/users", status_code=201)
def sign_up(user: NewUser) -> dict[str, str]:
    try:
        with psycopg.connect(DATABASE) as connection:
            connection.execute("INSERT INTO users(email) VALUES(%s)", [user.email])
            job_id = journal.put(SendWelcome(user.email), connection=connection)
    except psycopg.errors.UniqueViolation as error:
        raise HTTPException(409, "there is such a user") from error
    return {"job_id": job_id}
