"""Responses in a database, whichever it is.

Knows what each call consists of, and that connections break. What may be written is the domain's to
say.
"""

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import attrs
import structlog

from semantic_trio.adapters.store import sql
from semantic_trio.adapters.store.sql import (
    DatabaseConnection,
    LostError,
    Row,
    alone,
    integer,
    response_of,
)
from semantic_trio.domain.errors import ResponseConflictError, ResponseNotFoundError, StoreError
from semantic_trio.domain.responses import StoredResponse, is_storable, is_to_be_written

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connect = Callable[[], DatabaseConnection]  # raises `StoreError`
# How long a call waits for those before it: longer than one of them can take where the database
# does not answer.
PATIENCE_SECONDS = 90.0
LAST_PLACE = 1 << 62  # behind all responses


@attrs.define(eq=False)
class SqlResponses:
    """See `ResponseStore`. One connection, used by one thread at a time."""

    _connect: Connect
    _connection: DatabaseConnection | None  # None: the one before broke
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
        return _in_order(
            self._do(lambda connection: _rows(connection, sql.CHAIN, response_id)), response_id
        )

    def delete(self, response_id: str) -> bool:
        """See `ResponseStore.delete`."""
        return (
            is_storable(response_id)
            and self._do(lambda connection: _change(connection, sql.DELETE, id=response_id)) > 0
        )

    def prune(self, today: int, days: int) -> int:
        """See `ResponseStore.prune`."""
        return self._do(lambda connection: _prune(connection, today, days))

    def close(self) -> None:
        """See `ResponseStore.close`."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _do(self, work: Callable[[DatabaseConnection], T]) -> T:
        """Do it on the connection; where that turns out to be broken, all of it again on a new
        one.
        """
        if not self._lock.acquire(timeout=PATIENCE_SECONDS):
            raise StoreError(
                f"calls before this one have waited for the database for {PATIENCE_SECONDS:.0f} s"
            )
        try:
            try:
                return self._try(work)
            except LostError as error:
                log.warning(
                    "the database of responses was lost, and is opened again", reason=error.reason
                )
                return self._try(work)
        finally:
            self._lock.release()

    def _try(self, work: Callable[[DatabaseConnection], T]) -> T:
        if self._is_closed:
            raise StoreError("the database is closed")
        if self._connection is None:
            self._connection = self._connect()
        try:
            self._connection.check()
            result = work(self._connection)
            self._connection.check()
        except (ResponseConflictError, ResponseNotFoundError):
            raise
        except BaseException:  # nobody knows what state it is in
            self._drop()
            raise
        return result

    def _drop(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _put(connection: DatabaseConnection, response: StoredResponse) -> None:
    with alone(connection):
        known = _one(connection, sql.GET, response.id)
        parent = (
            _one(connection, sql.GET_WITHOUT_CONTENT, response.parent)
            if response.parent is not None
            else None
        )
        if is_to_be_written(response, known, parent):
            _delete_oldest(
                connection,
                len(response.input or b"") + len(response.output or b""),
                keep=response.parent or response.id,
            )
            connection.write(sql.PUT, **attrs.asdict(response))


def _delete_oldest(connection: DatabaseConnection, size: int, keep: str) -> None:
    """Remove the oldest conversations, a sixteenth of all responses at a time, until so many bytes
    more are within the budget.

    The conversation of `keep` stays. Raises `StoreError` where that takes more than the budget.
    """
    parts = 1
    while (excess := connection.excess(size)) > 0:
        if parts > sql.ALL_PARTS:
            raise StoreError(
                f"the conversation would take {excess} bytes more than there may be of all "
                "(responses_budget_mb)"
            )
        behind = connection.read(sql.PLACE_BEHIND, parts=parts)
        place = integer(behind[0][0]) if behind else LAST_PLACE
        if removed := connection.write(sql.PRUNE, place=place, keep=keep):
            log.info("the oldest responses were removed for newer ones", removed=removed)
        else:
            parts += 1  # newer ones follow all of these


def _prune(connection: DatabaseConnection, today: int, days: int) -> int:
    with alone(connection):
        number = _number_of(connection, today)
        oldest = connection.read(sql.FIRST_PLACE, number=number - days) if days else []
        return connection.write(sql.PRUNE, place=integer(oldest[0][0]), keep="") if oldest else 0


def _number_of(connection: DatabaseConnection, today: int) -> int:
    """The number of this day among those on which a server was working.

    A clock that leaps ahead makes one day of all that it has left out.
    """
    found = connection.read(sql.LAST_DAY)
    number, day = map(integer, found[0]) if found else (0, -1)
    if today > day:
        connection.write(sql.NEW_DAY, number=number + 1, day=today)
        return number + 1
    if today < day:
        connection.write(sql.CORRECT_DAY, number=number, day=today)
    return number


def _change(connection: DatabaseConnection, statement: str, **values: sql.Value) -> int:
    with alone(connection):
        return connection.write(statement, **values)


def _one(connection: DatabaseConnection, query: str, response_id: str) -> StoredResponse | None:
    return next(map(response_of, _rows(connection, query, response_id)), None)


def _rows(connection: DatabaseConnection, query: str, response_id: str) -> Sequence[Row]:
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
