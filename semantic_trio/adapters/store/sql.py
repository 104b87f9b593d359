"""What is said to a database, and what comes back.

Knows the table, in words that SQLite and PostgreSQL both understand. Knows nothing of connections.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.errors import StoreError
from semantic_trio.domain.responses import StoredResponse

VERSION = 1  # of the table. A database that has a later one is left alone

Value = str | int | bytes | None
Row = Sequence[object]

# What is long comes last: SQLite reads a row from its beginning, as far as it has to.
TABLE = """
create table semantic_responses (
  id text primary key not null,
  parent text,
  model text not null,
  created_at bigint not null,
  status text not null,
  input_hash text not null,
  output_hash text not null,
  input {bytes},
  output {bytes}
)
"""
INDEX = "create index semantic_responses_created_at on semantic_responses (created_at)"

GET = """
select id, parent, model, created_at, status, input, output, input_hash, output_hash from semantic_responses where id = :id
"""
# What a successor is bound to; it may be long, and is not needed.
GET_WITHOUT_CONTENT = """
select id, parent, model, created_at, status, null, null, input_hash, output_hash from semantic_responses where id = :id
"""
# `union` takes no row twice: also parents that lead back to their children come to an end.
CHAIN = """
with recursive path (id, parent) as (
  select id, parent from semantic_responses where id = :id
  union
  select one.id, one.parent from semantic_responses one join path on one.id = path.parent
)
select id, parent, model, created_at, status, input, output, input_hash, output_hash from semantic_responses where id in (select id from path)
"""
PUT = """
insert into semantic_responses (id, parent, model, created_at, status, input, output, input_hash, output_hash)
values (:id, :parent, :model, :created_at, :status, :input, :output, :input_hash, :output_hash)
on conflict (id) do update set status = excluded.status, output = excluded.output, output_hash = excluded.output_hash
"""
DELETE = "update semantic_responses set input = null, output = null where id = :id and (input is not null or output is not null)"
PRUNE = """
with recursive kept (id, parent) as (
  select id, parent from semantic_responses where created_at >= :before
  union
  select one.id, one.parent from semantic_responses one join kept on one.id = kept.parent
)
delete from semantic_responses where not exists (select 1 from kept where kept.id = semantic_responses.id)
"""


@attrs.frozen
class LostError(StoreError):
    """The connection is gone. Another one may do."""


class Connection(Protocol):
    """A connection to a database in which the table is. One thread uses it at a time.

    Raises `LostError` when it is of no use any more, `StoreError` for everything else; after either it is to be closed.
    """

    def read(self, sql: str, **values: Value) -> Sequence[Row]:
        """The rows of a query; `:name` in it stands for a value."""

    def write(self, sql: str, **values: Value) -> int:
        """How many rows a statement has changed."""

    def begin(self) -> None:
        """Begin a transaction beside which nobody writes. What it commits is there whatever happens."""

    def close(self) -> None:
        """Give it back. What is not committed has not happened. Raises nothing."""


@contextlib.contextmanager
def alone(connection: Connection) -> Iterator[None]:
    """A transaction beside which nobody writes."""
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
    """A row as it was written. Raises `StoreError` where somebody else wrote it."""
    match row:
        case [str() as id_, str() | None as parent, str() as model, int() as created_at, str() as status, *rest]:
            pass
        case _:
            raise StoreError("a row of the table is no response")
    match rest:
        case [bytes() | None as given, bytes() | None as answer, str() as input_hash, str() as output_hash]:
            return StoredResponse(id_, parent, model, created_at, status, given, answer, input_hash, output_hash)
        case _:
            raise StoreError(f"the row of {id_} is no response")


def check_version(found: object) -> None:
    """Raises `StoreError` for a database that was made by a newer version of this server."""
    if found != VERSION:
        raise StoreError(f"the database is of version {found}, and this server knows version {VERSION}: a newer one has made it")
