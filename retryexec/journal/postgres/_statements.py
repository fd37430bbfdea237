"""The SQL of a journal on PostgreSQL, for one schema.

Made so that each statement has one possible plan, whatever the statistics say: ranges and arrays of
the key, and ``ctid`` arrays, never a
join of two tables.
"""

from psycopg import sql

from retryexec.journal._rows import JobRow
from retryexec.journal.postgres._schema import FREE

# As `JobRow` has them, which reads them.
JOB_COLUMNS = ",".join(
    "encode(uuid_send(id),'hex')" if name == "id" else name for name in JobRow.__struct_fields__
)
LETTER_COLUMNS = (
    "encode(uuid_send(id),'hex'),kind,ver,data,reason,attempts,crashes,accepted_at,died_at,errors,"
    "source,NULL,key,latest,stale"
)

_ALIVE = "EXISTS(SELECT FROM {s}.owner WHERE id=%(me)s AND NOT dead)"
_OR_NOTHING = " ON CONFLICT DO NOTHING"


def _insertion(columns: str = "", arrays: str = "") -> str:
    return (
        f"INSERT INTO {{s}}.job(owner,seq,id,kind,ver,data,accepted_at{columns}) "
        "SELECT %(me)s::int8,u.* FROM unnest(%(seqs)s,%(ids)s,%(kinds)s,%(vers)s,%(datas)s,"
        f"%(times)s{arrays}) u WHERE {_ALIVE}"
    )


_EXPIRED = "lease_until<now() AND pg_postmaster_start_time()<now()-%(grace)s*interval '1 s'"
_TAKE = f"""
UPDATE {{s}}.job SET owner=%(me)s WHERE ctid=ANY(ARRAY(
  SELECT ctid FROM {{s}}.job WHERE owner=%(lane)s AND seq>%(after)s ORDER BY seq LIMIT %(most)s
  FOR UPDATE SKIP LOCKED)) AND {_ALIVE} RETURNING {JOB_COLUMNS}"""

_TEXTS = {
    # ---- lives
    "join": "INSERT INTO {s}.owner(host,pid,lease_until) VALUES(%s,%s,now()+%s*interval '1 s') "
    "RETURNING id",
    # The next moment at which somebody else's lease ends comes along.
    "renew": "UPDATE {s}.owner o SET lease_until=now()+%s*interval '1 s',running=%s,crashes=%s "
    "WHERE id=%s AND NOT dead RETURNING extract(epoch from clock_timestamp())::float8,(SELECT "
    "extract(epoch from min(lease_until)-now())::float8 FROM {s}.owner WHERE NOT dead AND id<>o.id)",
    "is_alive": "SELECT 1 FROM {s}.owner WHERE id=%s AND NOT dead",
    "mark": "UPDATE {s}.owner SET running=%s WHERE id=%s AND NOT dead",
    "leave": "UPDATE {s}.owner SET dead=true,dead_xid=pg_current_xact_id(),running='{{}}',crashes=0 "
    "WHERE id=%s AND NOT dead",
    # The others that are dead, or should be; but after the server was away, all had a chance.
    "gone": "SELECT id,crashes,dead FROM {s}.owner WHERE id<>%(me)s AND (dead OR " + _EXPIRED + ") "
    "ORDER BY id",
    "expired": "UPDATE {s}.owner SET dead=true,dead_xid=pg_current_xact_id(),crashes=crashes+1 "
    "WHERE id=ANY(ARRAY(SELECT id FROM {s}.owner WHERE NOT dead AND id<>%(me)s AND "
    + _EXPIRED
    + " FOR UPDATE SKIP LOCKED)) RETURNING id,host,pid,running,crashes",
    # A transaction that still saw it alive may be about to commit rows.
    "forget": "DELETE FROM {s}.owner o WHERE dead AND id=%s "
    "AND pg_snapshot_xmin(pg_current_snapshot())>dead_xid "
    "AND NOT EXISTS(SELECT FROM {s}.job WHERE owner=o.id)",
    "inherit": "UPDATE {s}.owner SET crashes=greatest(crashes,%s) WHERE id=%s AND NOT dead",
    # ---- suspects
    "marks": "SELECT seq,crashes,attempts FROM {s}.job WHERE owner=%s AND seq=ANY(%s)",
    "blame": "UPDATE {s}.job SET crashes=crashes+1 WHERE owner=%s AND seq=ANY(%s)",
    "serial": "UPDATE {s}.job SET started=1 WHERE owner=%(lane)s AND seq=ANY(ARRAY(SELECT seq "
    "FROM {s}.job WHERE owner=%(lane)s ORDER BY coalesce(due_at,0),seq LIMIT %(most)s))",
    # ---- jobs
    "insert": _insertion(),
    "insert_again": _insertion() + _OR_NOTHING,
    "insert_keyed": _insertion(",key,latest", ",%(keys)s,%(latest)s"),
    "insert_keyed_again": _insertion(",key,latest", ",%(keys)s,%(latest)s") + _OR_NOTHING,
    "insert_row": "INSERT INTO {s}.job(owner,seq,id,kind,ver,data,attempts,crashes,started,"
    "accepted_at,first_at,due_at,delay,errors,parked,key,latest,stale) SELECT %s::int8,%s::int8,%s::text::uuid,"
    "%s::text,%s::int4,%s::text,%s::int4,%s::int4,%s::int4,%s::float8,%s::float8,%s::float8,"
    "%s::float8,%s::text,%s::text,%s::text,%s::int4,%s::int4 WHERE EXISTS(SELECT FROM {s}.owner WHERE id=%s AND NOT dead) "
    "ON CONFLICT DO NOTHING",
    "update": "UPDATE {s}.job j SET attempts=u.n,first_at=u.f,due_at=u.d,delay=u.w,errors=u.e,"
    "started=0 FROM unnest(%s,%s,%s,%s,%s,%s) u(s,n,f,d,w,e) WHERE j.owner=%s AND j.seq=u.s",
    "delete": "DELETE FROM {s}.job WHERE owner=%s AND seq BETWEEN %s AND %s",
    "delete_some": "DELETE FROM {s}.job WHERE owner=%s AND seq=ANY(%s)",
    "holds": "SELECT 1 FROM {s}.job WHERE owner=%s AND seq=%s AND id=%s::text::uuid",
    "whereabouts": "SELECT seq FROM {s}.job WHERE owner=ANY(ARRAY(SELECT id FROM {s}.owner)) "
    "AND seq=ANY(%s)",
    "take": _TAKE.replace("seq>%(after)s", "seq>%(after)s AND key IS NULL"),
    "claim": _TAKE,
    # All that have keys at once, so that one process has the whole line of each key.
    "take_keyed": _TAKE.replace("seq>%(after)s", "key IS NOT NULL").replace(
        "ORDER BY seq LIMIT %(most)s\n  FOR UPDATE SKIP LOCKED", "FOR UPDATE"
    ),
    "take_parked": _TAKE.replace("seq>%(after)s", "seq>%(after)s AND kind=ANY(%(kinds)s)"),
    "mine": f"SELECT {JOB_COLUMNS} FROM {{s}}.job WHERE owner=%s AND NOT seq BETWEEN %s AND %s ORDER BY seq LIMIT 1000",
    "park": "UPDATE {s}.job SET owner=-1,parked=coalesce(%s::text,parked) WHERE owner=%s AND seq=%s",
    "unpark": "UPDATE {s}.job SET parked=NULL WHERE owner=%s AND seq=ANY(%s)",
    # ---- what is put, by anybody, in any transaction
    "put": "WITH put AS (INSERT INTO {s}.job(id,kind,ver,data,accepted_at) SELECT * "
    "FROM unnest(%s::text[]::uuid[],%s::text[],%s::int4[],%s::text[],%s::float8[])) SELECT pg_notify(%s,'')",
    "put_quietly": "INSERT INTO {s}.job(id,kind,ver,data,accepted_at) SELECT * "
    "FROM unnest(%s::text[]::uuid[],%s::text[],%s::int4[],%s::text[],%s::float8[])",
    # ---- dead letters
    "write_letters": "INSERT INTO {s}.dead AS d SELECT u.* FROM unnest(%(ids)s,%(kinds)s,%(vers)s,"
    "%(datas)s,%(reasons)s,%(attempts)s,%(crashes)s,%(accepted)s,%(died)s,%(errors)s,%(sources)s,"
    "%(keys)s,%(latest)s,%(stale)s) u "
    "WHERE "
    + _ALIVE
    + " ON CONFLICT(id) DO UPDATE SET ver=excluded.ver,data=excluded.data,reason=excluded.reason,"
    "attempts=excluded.attempts,crashes=excluded.crashes,died_at=excluded.died_at,"
    "errors=excluded.errors,source=excluded.source,key=excluded.key,latest=excluded.latest,"
    "stale=excluded.stale",
    "outdate": "UPDATE {s}.dead d SET stale=1 FROM unnest(%(keys)s,%(ids)s) u(k,i) "
    "WHERE d.key=u.k AND d.id<u.i AND d.stale IS NULL AND " + _ALIVE,
    "written_letters": "SELECT encode(uuid_send(id),'hex') FROM {s}.dead WHERE id=ANY(%s)",
    "rerun": "WITH gone AS (DELETE FROM {s}.dead WHERE id=ANY(%s) RETURNING *) "
    "INSERT INTO {s}.job(owner,id,kind,ver,data,accepted_at,errors,key,latest,stale) "
    f"SELECT {FREE},id,kind,ver,data,accepted_at,errors,key,latest,stale FROM gone "
    "ORDER BY died_at,id",
    "discard": "DELETE FROM {s}.dead WHERE id=ANY(%s)",
    "discard_parked": "DELETE FROM {s}.job WHERE owner=-1 AND id=ANY(%s)",
    "edit": "UPDATE {s}.dead SET ver=%s,data=%s WHERE id=ANY(%s)",
    "letter_count": "SELECT count(*) FROM {s}.dead",
    "letter": f"SELECT {LETTER_COLUMNS} FROM {{s}}.dead WHERE id BETWEEN %s::text::uuid AND "
    "%s::text::uuid LIMIT 4",
    "letters_by_id": f"SELECT {LETTER_COLUMNS} FROM {{s}}.dead WHERE id=ANY(%s)",
    "letters": f"SELECT {LETTER_COLUMNS} FROM {{s}}.dead WHERE (died_at,id)<(%(at)s,"
    "%(id)s::text::uuid) ORDER BY died_at DESC,id DESC LIMIT %(most)s",
    "letters_of": f"SELECT {LETTER_COLUMNS} FROM {{s}}.dead WHERE kind=%(kind)s AND (died_at,id)<"
    "(%(at)s,%(id)s::text::uuid) ORDER BY died_at DESC,id DESC LIMIT %(most)s",
    # ---- looking in from outside
    "owners": "SELECT id,host,pid,NOT dead AND lease_until>now(),running FROM {s}.owner ORDER BY id",
    "jobs": f"SELECT owner,{JOB_COLUMNS} FROM {{s}}.job WHERE (accepted_at,owner,seq)>(%(at)s,%(owner)s,%(seq)s) "
    "AND (%(kind)s::text IS NULL OR kind=%(kind)s::text) ORDER BY accepted_at,job.owner,seq "
    "LIMIT %(most)s",
    "parked": f"SELECT {JOB_COLUMNS} FROM {{s}}.job WHERE owner=-1 AND seq>%s ORDER BY seq LIMIT 500",
    "job": f"SELECT owner,{JOB_COLUMNS} FROM {{s}}.job WHERE id BETWEEN %s::text::uuid AND "
    "%s::text::uuid LIMIT 100",
    "job_counts": "SELECT owner,kind,count(*),count(parked),min(accepted_at) FROM {s}.job "
    "GROUP BY owner,kind",
    "letter_counts": "SELECT kind,count(*) FROM {s}.dead GROUP BY kind",
    # ---- the whole at one look
    "job_states": "SELECT owner,count(*),count(parked),min(accepted_at),"
    "count(*) FILTER (WHERE parked IS NULL AND due_at>%(now)s),"
    "count(key) FILTER (WHERE parked IS NULL)-count(DISTINCT key) FILTER (WHERE parked IS NULL) "
    "FROM {s}.job GROUP BY owner",
    "latest_row": "SELECT max(seq) FROM {s}.job WHERE owner=%s AND seq BETWEEN %s AND %s",
    # Who may only look has no privilege on the sequence.
    "latest_free": "SELECT CASE WHEN has_sequence_privilege('{t}.free_seq','USAGE,SELECT') "
    "THEN pg_sequence_last_value('{t}.free_seq'::regclass) END",
    "due_next": f"SELECT owner,{JOB_COLUMNS} FROM {{s}}.job WHERE due_at>%(now)s AND parked IS NULL "
    "ORDER BY due_at LIMIT %(most)s",
    "died_since": "SELECT count(*) FROM {s}.dead WHERE died_at>=%s",
    "job_errors": "SELECT kind,errors,accepted_at,encode(uuid_send(id),'hex') FROM {s}.job "
    "WHERE attempts>0 AND parked IS NULL AND errors IS NOT NULL LIMIT %s",
    "letter_errors": "SELECT kind,errors,died_at,encode(uuid_send(id),'hex') FROM {s}.dead "
    "WHERE (died_at,id)<(%s,%s::text::uuid) ORDER BY died_at DESC,dead.id DESC LIMIT %s",
    "letters_version": "SELECT count(*),max(died_at) FROM {s}.dead",
    "sizes": "SELECT pg_total_relation_size('{t}.job'),pg_total_relation_size('{t}.dead')",
}


class Statements:
    """The statements, by name, as bytes that are ready to be sent."""

    def __init__(self, schema: str) -> None:
        quoted = sql.Identifier(schema).as_string(None)
        self._made = {
            name: text.format(s=quoted.replace("%", "%%"), t=quoted.replace("'", "''")).encode()
            for name, text in _TEXTS.items()
        }

    def __getitem__(self, name: str) -> bytes:
        return self._made[name]
