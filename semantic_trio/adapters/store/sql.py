"""Statements to a database, and their results.

Knows the tables, in SQL that both SQLite and PostgreSQL take. Knows nothing of connections.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.errors import StoreError
from semantic_trio.domain.responses import StoredResponse

VERSION = 2  # of the tables. A database that has a later one is left alone

Value = str | int | bytes | None
Row = Sequence[object]

# Long columns come last: SQLite reads a row from its beginning, as far as needed. `place` counts
# responses in their order of arrival.
TABLE = """
create table semantic_responses (
  id text primary key not null,
  parent text,
  model text not null,
  created_at bigint not null,
  status text not null,
  input_hash text not null,
  output_hash text not null,
  place bigint not null,
  input {bytes},
  output {bytes}
)
"""
INDEX = "create index semantic_responses_place on semantic_responses (place)"
# Days on which a server was working, numbered from 1 on, and the place of the first response of
# each: the age of a response is counted in these, for a clock may be wrong. `day`: since 1970, by
# the clock.
DAYS = """
create table semantic_responses_days (
  number bigint primary key not null,
  day bigint not null,
  place bigint not null
)
"""
# From version 1, which knew no order but that of the clock.
UPGRADE = (
    "alter table semantic_responses add column place bigint not null default 0",
    """
update semantic_responses set place = ordered.place
from (
  select id, row_number() over (order by created_at, id) as place from semantic_responses
) as ordered
where ordered.id = semantic_responses.id
""",
    "drop index semantic_responses_created_at",
    INDEX,
    DAYS,
)

GET = """
select id, parent, model, created_at, status, input, output, input_hash, output_hash
from semantic_responses where id = :id
"""
# A response without its input and output, for checks that need only its identity.
GET_WITHOUT_CONTENT = """
select id, parent, model, created_at, status, null, null, input_hash, output_hash
from semantic_responses where id = :id
"""
# `union` takes no row twice: also parents that lead back to their children come to an end.
CHAIN = """
with recursive path (id, parent) as (
  select id, parent from semantic_responses where id = :id
  union
  select one.id, one.parent from semantic_responses one join path on one.id = path.parent
)
select id, parent, model, created_at, status, input, output, input_hash, output_hash
from semantic_responses where id in (select id from path)
"""
# The place of the next response: no place that stands for a day is given again when all responses
# of that day are removed.
NEXT_PLACE = """
select max(place) from (
  select coalesce(max(place), 0) + 1 as place from semantic_responses
  union all
  select coalesce(max(place), 1) from semantic_responses_days
) as known
"""
PUT = f"""
insert into semantic_responses (
  id, parent, model, created_at, status, input, output, input_hash, output_hash, place
)
values (
  :id, :parent, :model, :created_at, :status, :input, :output, :input_hash, :output_hash,
  ({NEXT_PLACE})
)
on conflict (id) do update
set status = excluded.status, output = excluded.output, output_hash = excluded.output_hash
"""  # noqa: S608 - both parts are constants of this file
DELETE = """
update semantic_responses set input = null, output = null
where id = :id and (input is not null or output is not null)
"""
# Removes responses before a place, except ancestors of newer ones, and one response with its
# ancestors.
PRUNE = """
with recursive kept (id, parent) as (
  select id, parent from semantic_responses where place >= :place or id = :keep
  union
  select one.id, one.parent from semantic_responses one join kept on one.id = kept.parent
)
delete from semantic_responses
where not exists (select 1 from kept where kept.id = semantic_responses.id)
"""
LAST_DAY = "select number, day from semantic_responses_days order by number desc limit 1"
NEW_DAY = f"""
insert into semantic_responses_days (number, day, place) values (:number, :day, ({NEXT_PLACE}))
"""  # noqa: S608 - as above
# For a day that was written while the clock was ahead.
CORRECT_DAY = "update semantic_responses_days set day = :day where number = :number"
FIRST_PLACE = "select place from semantic_responses_days where number = :number"
# The place behind the oldest sixteenths of all responses.
PLACE_BEHIND = """
select place from semantic_responses
order by place limit 1 offset (select count(*) * :parts / 16 from semantic_responses)
"""
ALL_PARTS = 16


@attrs.frozen
class LostError(StoreError):
    """The connection is lost. The caller may retry on another one."""


class DatabaseConnection(Protocol):
    """Connection to a database with the tables of responses. One thread uses it at a time.

    Raises `LostError` if the connection is lost, `StoreError` for every other error; the caller
    closes it after either.
    """

    def read(self, sql: str, **values: Value) -> Sequence[Row]:
        """Return the rows of a query; `:name` in it stands for a value."""

    def write(self, sql: str, **values: Value) -> int:
        """Execute a statement and return the number of rows that it changed."""

    def begin(self) -> None:
        """Begin a transaction that excludes other writers. Its commit is durable."""

    def excess(self, size: int) -> int:
        """Bytes above the budget after a write of `size` bytes.

        Raises `StoreError` if the disk would have too few bytes left.
        """

    def check(self) -> None:
        """Raises `LostError` if the database was deleted: writes to it would be lost."""

    def close(self) -> None:
        """Close the connection. Uncommitted changes are undone. Raises nothing."""


@contextlib.contextmanager
def alone(connection: DatabaseConnection) -> Iterator[None]:
    """Hold a transaction that excludes other writers."""
    connection.begin()
    try:
        yield
    except StoreError:  # the connection will be closed
        raise
    except BaseException:
        connection.write("rollback")
        raise
    connection.write("commit")


def response_of(row: Row) -> StoredResponse:
    """Return the response in a row.

    Raises `StoreError` for a row that this server cannot have written.
    """
    match row:
        case [
            str() as id_,
            str() | None as parent,
            str() as model,
            int() as created_at,
            str() as status,
            *rest,
        ]:
            pass
        case _:
            raise StoreError("a row of the table is no response")
    match rest:
        case [
            bytes() | None as given,
            bytes() | None as answer,
            str() as input_hash,
            str() as output_hash,
        ]:
            return StoredResponse(
                id_, parent, model, created_at, status, given, answer, input_hash, output_hash
            )
        case _:
            raise StoreError(f"the row of {id_} is no response")


def integer(value: object) -> int:
    """Return a number from a database. Raises `StoreError` for another value."""
    if not isinstance(value, int):
        raise StoreError("the table holds something else than a number")
    return value


def is_older(found: object) -> bool:
    """True for the version of a database that the previous version of this server made."""
    return found == VERSION - 1


def upgrade(connection: DatabaseConnection) -> None:
    """Bring the tables of an older version up to date, except for their version number."""
    for statement in UPGRADE:
        connection.write(statement)


def check_version(found: object) -> None:
    """Raises `StoreError` for a database that was made by a newer version of this server."""
    if found != VERSION:
        raise StoreError(
            f"the database is of version {found}, and this server knows version {VERSION}: a newer "
            "one has made it"
        )
