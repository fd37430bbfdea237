"""A journal in a PostgreSQL database, which the processes of any number of hosts share."""

try:
    __import__("psycopg")  # here, so that one message says what to do
except ModuleNotFoundError as error:
    if error.name != "psycopg":
        raise
    msg = "a journal on PostgreSQL needs psycopg: pip install 'retryexec[postgres]'"
    raise ImportError(msg, name="psycopg") from error
except ImportError as error:  # psycopg is there, and its libpq is not
    msg = (
        f"a journal on PostgreSQL needs psycopg with libpq: pip install 'psycopg[binary]' ({error})"
    )
    raise ImportError(msg, name="psycopg") from error
