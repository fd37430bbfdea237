"""The jobs that the app puts and the worker runs, and where both find them."""

import os
from dataclasses import dataclass

import psycopg

from retryexec import current_attempt

DATABASE = os.environ.get("DATABASE_URL", "postgresql://localhost/app")


@dataclass(frozen=True)
class SendWelcome:
    email: str

    def exec(self) -> None:
        with psycopg.connect(DATABASE) as connection:
            # The job's id is the key: however often it is tried, one welcome is sent.
            connection.execute(
                "INSERT INTO welcome(id, email) VALUES(%s, %s) ON CONFLICT DO NOTHING",
                [current_attempt().job_id, self.email],
            )


JOBS: dict[str, type] = {"send_welcome": SendWelcome}
