"""Browsing a journal on PostgreSQL page by page; `retryexec.journal._browse` tells of it."""

from pathlib import Path
from typing import Any

from psycopg import sql

from retryexec.journal._browse import JobPage, LetterPage, Place, Sight
from retryexec.journal._inspect import Owner
from retryexec.journal._rows import read_letter
from retryexec.journal.postgres._connection import Connection
from retryexec.journal.postgres._inspect import PostgresInspector
from retryexec.journal.postgres._statements import JOB_COLUMNS, LETTER_COLUMNS

_FIRST_DAY, _LAST_DAY = float("-inf"), float("inf")
_FIRST_ID, _LAST_ID = "0" * 32, "f" * 32
# The fields may be large, and a page does not show them.
_LETTER = LETTER_COLUMNS.replace("data,", "'null',", 1)
_JOB = JOB_COLUMNS.replace("data,", "'null',", 1)
_BEFORE = "(died_at,id)<(%(at)s,%(id)s::text::uuid) ORDER BY died_at DESC,id DESC LIMIT %(most)s"
_GONE: dict[int, int] = {}


class PostgresBrowser(PostgresInspector):
    """Browses the journal in a schema of a PostgreSQL server."""

    def __init__(self, url: str, *, schema: str = "retryexec") -> None:
        super().__init__(url, schema=schema)
        self._schema = sql.Identifier(schema).as_string(None).replace("%", "%%")

    def _found(self, query: str, values: dict[str, Any]) -> list[Any]:
        text = query.replace("{s}", self._schema).encode()

        def read(connection: Connection) -> list[Any]:
            return connection.execute(text, values).fetchall()

        return self._desk.use(read)

    def letter_page(self, after: Place | None, size: int, kind: str | None = None) -> LetterPage:
        """Return letters, the latest first."""
        at, id_ = (_LAST_DAY, _LAST_ID) if after is None else after
        where = "" if kind is None else "kind=%(kind)s AND "
        query = f"SELECT {_LETTER} FROM {{s}}.dead WHERE {where}{_BEFORE}"  # noqa: S608
        rows = self._found(query, {"at": at, "id": id_, "kind": kind, "most": size})
        return LetterPage([(read_letter(row), (row[8], row[0])) for row in rows], len(rows) == size)

    def sights(self, after: Place | None, size: int) -> list[Sight]:
        """Return what is counted of letters, the oldest first."""
        at, id_ = (_FIRST_DAY, _FIRST_ID) if after is None else after
        query = (
            "SELECT died_at,encode(uuid_send(id),'hex'),kind,errors,reason FROM {s}.dead "
            "WHERE (died_at,id)>(%(at)s,%(id)s::text::uuid) ORDER BY died_at,id LIMIT %(most)s"
        )
        return [Sight(*row) for row in self._found(query, {"at": at, "id": id_, "most": size})]

    def letter_count(self) -> int:
        """Return how many letters there are."""
        ((number,),) = self._rows("letter_count")
        return int(number)

    def letter_version(self) -> object:
        """Return None: nobody knows whether the letters have changed."""
        return None

    def job_page(self, after: Place | None, size: int, kind: str | None = None) -> JobPage:
        """Return unfinished jobs: those of one owner after the other, each in its order."""
        life, seq = (-(2**62), 0) if after is None else after
        where = "" if kind is None else "kind=%(kind)s AND "
        query = (
            f"SELECT owner,{_JOB} FROM {{s}}.job WHERE {where}"  # noqa: S608
            "(owner,seq)>(%(owner)s,%(seq)s) ORDER BY owner,seq LIMIT %(most)s"
        )
        values = {"owner": life, "seq": seq, "kind": kind, "most": size}
        rows, owners = self._found(query, values), self._owners()
        gone = (Owner("", Path("gone"), False, None), _GONE)
        found = [(self._seen(row, *owners.get(life, gone)), (life, row[0])) for life, *row in rows]
        return JobPage(found, len(rows) == size)
