"""The table of jobs in a process's file: its columns, and the statements that change it."""

from retryexec.journal._rows import JOB_COLUMNS, JobRow
from retryexec.journal._sqlite import STRICT, Format

JOBS = Format(
    application=0x72747879,  # "rtxy"
    version=2,
    made=2,
    added=(("key TEXT", "latest INTEGER", "stale INTEGER"),),
    schema=f"""
CREATE TABLE job(
  seq INTEGER PRIMARY KEY,              -- the order in which jobs were accepted
  id TEXT NOT NULL,                     -- a UUID, version 7, the same through all crashes
  kind TEXT NOT NULL,                   -- what Journal(jobs=...) names the class
  ver INTEGER NOT NULL,                 -- the version of its fields
  data TEXT NOT NULL,                   -- the fields, as JSON
  attempts INTEGER NOT NULL DEFAULT 0,  -- those that failed
  crashes INTEGER NOT NULL DEFAULT 0,   -- ends of the process while it ran
  started INTEGER NOT NULL DEFAULT 0,   -- 1: was seen running
  accepted_at REAL NOT NULL,            -- this and what follows in seconds of the wall clock
  first_at REAL,                        -- when the first attempt began
  due_at REAL,                          -- when the next attempt is due
  delay REAL,                           -- how long that was to be waited for
  errors TEXT,                          -- the latest failures, as JSON
  parked TEXT,                          -- why no job can be made of it, for now
  key TEXT,                             -- of those that have the same, one runs at a time; JSON
  latest INTEGER,                       -- 1: a newer one of the key replaces it while it waits
  stale INTEGER                         -- 1: rerun, although a later one of its key had succeeded
){STRICT};
CREATE TABLE meta(
  owner TEXT NOT NULL,
  adoptions INTEGER NOT NULL DEFAULT 0  -- crashes of its owners since it was last empty
){STRICT};
""",
    tables={"job": JOB_COLUMNS, "meta": "owner,adoptions"},
    key=("seq", "INTEGER"),
    pragmas=(
        "journal_mode=WAL",
        "fullfsync=1",  # elsewhere than on macOS, nothing
        "checkpoint_fullfsync=1",
        "wal_autocheckpoint=1000",
        "journal_size_limit=67108864",
        "secure_delete=FAST",  # what is freed is not written once more only to be blanked
        "temp_store=MEMORY",
        "mmap_size=0",
    ),
)

# One statement for many rows lets go of the interpreter once, and not once for each row; the
# sizes are few, so that each is compiled once.
_SIZES = (500, 100, 20, 5, 1)
_INSERT = "INSERT INTO job(seq,id,kind,ver,data,accepted_at) VALUES"
_VALUES = "(?,?,?,?,CAST(? AS TEXT),?)"
INSERTS = {size: _INSERT + ",".join([_VALUES] * size) for size in _SIZES}
_INSERT_KEYED = "INSERT INTO job(seq,id,kind,ver,data,accepted_at,key,latest) VALUES"
_KEYED_VALUES = "(?,?,?,?,CAST(? AS TEXT),?,?,?)"
KEYED_INSERTS = {size: _INSERT_KEYED + ",".join([_KEYED_VALUES] * size) for size in _SIZES}
INSERT_ALL = f"INSERT INTO job VALUES({','.join('?' * len(JobRow.__struct_fields__))})"
UPDATE = "UPDATE job SET attempts=?,first_at=?,due_at=?,delay=?,errors=?,started=0 WHERE seq=?"
MARK = "UPDATE job SET started=1 WHERE seq=?"
DELETE = "DELETE FROM job WHERE seq BETWEEN ? AND ?"
SCAN = f"SELECT {JOB_COLUMNS} FROM job ORDER BY seq"  # noqa: S608  ours
