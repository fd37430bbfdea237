"""The tables of a journal on PostgreSQL: made, checked and brought up to date by itself."""

from psycopg import errors, sql

from retryexec.journal._errors import JournalError, Newer
from retryexec.journal.postgres._connection import Connection

VERSION = 1

FREE = 0
"""The lane of jobs that nobody has taken yet: what was put, and dead letters that run again."""

PARKED = -1
"""The lane of records that nobody could make jobs of."""

LIFE_BITS = 36
"""A life numbers its rows from ``id << LIFE_BITS`` on, so that a row keeps its number for good."""

# A row is what would have to be run if its owner died now. It is inserted once and deleted once:
# nothing is updated to claim it, and no index but that of the key has to be kept. Each batch is
# deleted by a range of the key, so that a vacuum that is kept from its work, by a transaction that
# somebody leaves open, does not make the next batch slower.
_TABLES = """
CREATE TABLE {schema}.meta(version int4 NOT NULL);
CREATE TABLE {schema}.owner(              -- one life of a process; an id is never used again
  id int8 GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  host text NOT NULL,
  pid int4 NOT NULL,
  began timestamptz NOT NULL DEFAULT now(),
  lease_until timestamptz NOT NULL,       -- by the clock of the server alone
  dead boolean NOT NULL DEFAULT false,    -- then it can write nothing any more
  dead_xid xid8,                          -- the transaction that declared it dead
  running int8[] NOT NULL DEFAULT '{{}}', -- at work at the last renewal: seq, attempts, ...
  crashes int4 NOT NULL DEFAULT 0         -- owners of these jobs that have crashed in a row
) WITH (fillfactor=50);
CREATE SEQUENCE {schema}.free_seq;
CREATE TABLE {schema}.job(
  owner int8 NOT NULL DEFAULT 0,          -- 0: nobody's yet; -1: parked
  seq int8 NOT NULL DEFAULT nextval('{schema_text}.free_seq'),
  id uuid NOT NULL,                       -- version 7, the same through all crashes
  kind text NOT NULL,                     -- what Journal(jobs=...) names the class
  ver int4 NOT NULL,                      -- the version of its fields
  data text NOT NULL,                     -- the fields, as JSON
  attempts int4 NOT NULL DEFAULT 0,       -- those that failed
  crashes int4 NOT NULL DEFAULT 0,        -- ends of the process while it ran
  started int4 NOT NULL DEFAULT 0,        -- 1: it is run alone, as it may have ended a process
  accepted_at float8 NOT NULL DEFAULT extract(epoch from clock_timestamp()),
  first_at float8,                        -- when the first attempt began
  due_at float8,                          -- when the next is due
  delay float8,                           -- seconds that were to be waited for it
  errors text,                            -- the latest failures, as JSON
  parked text,                            -- why no job can be made of it
  key text,                               -- of those that have the same, one runs at a time; JSON
  latest int4,                            -- 1: a newer one of the key replaces it while it waits
  stale int4,                             -- 1: rerun, although a later one of its key had succeeded
  PRIMARY KEY(owner, seq)
) WITH (fillfactor=90, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=5000,
        autovacuum_vacuum_cost_delay=0);
CREATE TABLE {schema}.dead(
  id uuid PRIMARY KEY,
  kind text NOT NULL,
  ver int4 NOT NULL,
  data text NOT NULL,
  reason text NOT NULL,                   -- why there were no more attempts
  attempts int4 NOT NULL,
  crashes int4 NOT NULL,
  accepted_at float8 NOT NULL,
  died_at float8 NOT NULL,
  errors text,
  source text NOT NULL,                   -- the owner that it died with
  key text,
  latest int4,
  stale int4                              -- 1: a later one of its key has succeeded since
);
CREATE INDEX dead_kind ON {schema}.dead(kind, died_at, id);
CREATE INDEX dead_died ON {schema}.dead(died_at, id);
CREATE INDEX dead_key ON {schema}.dead(key, id) WHERE key IS NOT NULL AND stale IS NULL;
INSERT INTO {schema}.meta(version) VALUES(1);
"""

# What turns version n into n + 1, for each n there has been.
_MIGRATIONS: dict[int, str] = {}


def prepare(connection: Connection, schema: str) -> None:
    """Make the tables if there are none, and bring them up to date.

    Raises:
        JournalError: a newer library has made them, or the role may not use them.
        psycopg.Error: as it is.
    """
    if _version(connection, schema) != VERSION:
        with connection.transaction():
            # One at a time, of all that start together.
            connection.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))",
                [f"retryexec {schema}"],
                prepare=False,
            )
            _make(connection, schema)
    _check_privileges(connection, schema, ["SELECT", "INSERT", "UPDATE", "DELETE"])


def check(connection: Connection, schema: str) -> None:
    """Make sure that there is a journal, and that it may be looked into.

    Raises:
        JournalError: there is none, or the role may not read it.
    """
    if _version(connection, schema) is None:
        msg = (
            f'there is no journal in schema "{schema}": name the schema that Journal(...) was given'
        )
        raise JournalError(msg)
    _check_privileges(connection, schema, ["SELECT"])


def _version(connection: Connection, schema: str) -> int | None:
    query = sql.SQL("SELECT version FROM {}.meta").format(sql.Identifier(schema))
    try:
        found = connection.execute(query, prepare=False).fetchone()
    except (errors.UndefinedTable, errors.InvalidSchemaName):
        return None
    version = found[0] if found else None
    if version is not None and version > VERSION:
        msg = (
            f'the tables in schema "{schema}" are of version {version}, and this library knows '
            f"{VERSION}: a newer one has made them; bring this one up to date"
        )
        raise Newer(msg)
    return version


def _make(connection: Connection, schema: str) -> None:
    name = sql.Identifier(schema)
    there = connection.execute(
        "SELECT to_regclass(format('%%I.meta', %s::text)), to_regnamespace(quote_ident(%s))",
        [schema, schema],
        prepare=False,
    ).fetchone()
    assert there is not None
    if there[0] is None:
        if there[1] is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(name), prepare=False)
        text = sql.SQL("{}").format(name).as_string(connection)
        tables = _TABLES.format(schema=text, schema_text=text.replace("'", "''"))
        connection.execute(tables.encode(), prepare=False)
        return
    version = _version(connection, schema)
    while version is not None and version < VERSION:  # pragma: no cover  there is one so far
        connection.execute(_MIGRATIONS[version].format(schema=name).encode(), prepare=False)
        version += 1


def _check_privileges(connection: Connection, schema: str, needed: list[str]) -> None:
    missing = connection.execute(
        """
        SELECT current_user, t, p
        FROM unnest(ARRAY['owner','job','dead']) t, unnest(%s::text[]) p
        WHERE NOT has_table_privilege(format('%%I.%%I', %s::text, t), p)
        """,
        [needed, schema],
        prepare=False,
    ).fetchall()
    if missing:
        user = missing[0][0]
        lacks = ", ".join(f"{privilege} on {table}" for _, table, privilege in missing)
        msg = (
            f'role "{user}" may not use the journal in schema "{schema}" (it lacks {lacks}): '
            f'GRANT USAGE ON SCHEMA "{schema}" TO "{user}"; GRANT {", ".join(needed)} '
            f'ON ALL TABLES IN SCHEMA "{schema}" TO "{user}"'
        )
        if "INSERT" in needed:
            msg += f'; GRANT USAGE ON ALL SEQUENCES IN SCHEMA "{schema}" TO "{user}"'
        raise JournalError(msg)
