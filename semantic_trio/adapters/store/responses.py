"""Responses in a database, whichever it is.

Knows what each call consists of, and that connections break. What may be written is the domain's to say.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs

from semantic_trio.adapters.store import sql
from semantic_trio.adapters.store.sql import Connection, LostError, Row, alone, response_of
from semantic_trio.domain.errors import ResponseConflictError, ResponseNotFoundError, StoreError
from semantic_trio.domain.responses import StoredResponse, is_storable, is_to_be_written

T = TypeVar("T")
Connect = Callable[[], Connection]  # raises `StoreError`
# How long a call waits for those before it: longer than one of them can take where the database does not answer.
PATIENCE_SECONDS = 90.0


@attrs.define(eq=False)
class SqlResponses:
    """See `ResponseStore`. One connection, used by one thread at a time."""

    _connect: Connect
    _connection: Connection | None  # None: the one before broke
    _is_closed: bool = attrs.field(init=False, default=False)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def put(self, response: StoredResponse) -> None:
        """See `ResponseStore.put`."""
        self._do(lambda connection: _put(connection, response))

    def get(self, response_id: str) -> StoredResponse | None:
        """See `ResponseStore.get`."""
        found = self._do(lambda connection: _one(connection, sql.GET, response_id))
        return None if found is None or found.is_deleted else found

    def chain(self, response_id: str) -> tuple[StoredResponse, ...]:
        """See `ResponseStore.chain`."""
        return _in_order(self._do(lambda connection: _rows(connection, sql.CHAIN, response_id)), response_id)

    def delete(self, response_id: str) -> bool:
        """See `ResponseStore.delete`."""
        return is_storable(response_id) and self._do(lambda connection: _change(connection, sql.DELETE, id=response_id)) > 0

    def prune(self, before: int) -> int:
        """See `ResponseStore.prune`."""
        return self._do(lambda connection: _change(connection, sql.PRUNE, before=before))

    def close(self) -> None:
        """See `ResponseStore.close`."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _do(self, work: Callable[[Connection], T]) -> T:
        """Do it on the connection; where that turns out to be broken, all of it again on a new one."""
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise StoreError(f"calls before this one have waited for the database for {PATIENCE_SECONDS:.0f} s")
        try:
            try:
                return self._try(work)
            except LostError:
                return self._try(work)
        finally:
            self._lock.release()

    def _try(self, work: Callable[[Connection], T]) -> T:
        if self._is_closed:
            raise StoreError("the database is closed")
        if self._connection is None:
            self._connection = self._connect()
        try:
            return work(self._connection)
        except (ResponseConflictError, ResponseNotFoundError):
            raise
        except BaseException:  # nobody knows what state it is in
            self._drop()
            raise

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _put(connection: Connection, response: StoredResponse) -> None:
    with alone(connection):
        known = _one(connection, sql.GET, response.id)
        parent = _one(connection, sql.GET_WITHOUT_CONTENT, response.parent) if response.parent is not None else None
        if is_to_be_written(response, known, parent):
            connection.write(sql.PUT, **attrs.asdict(response))


def _change(connection: Connection, statement: str, **values: sql.Value) -> int:
    with alone(connection):
        return connection.write(statement, **values)


def _one(connection: Connection, query: str, response_id: str) -> StoredResponse | None:
    return next(map(response_of, _rows(connection, query, response_id)), None)


def _rows(connection: Connection, query: str, response_id: str) -> Sequence[Row]:
    return connection.read(query, id=response_id) if is_storable(response_id) else []


def _in_order(rows: Sequence[Row], last: str) -> tuple[StoredResponse, ...]:
    """The first one first. Whom a record leads to that was passed already ends it."""
    records = {record.id: record for record in map(response_of, rows)}
    upwards: list[StoredResponse] = []
    at: str | None = last
    while at is not None and at in records:
        upwards.append(records.pop(at))
        at = upwards[-1].parent
    return tuple(reversed(upwards))
