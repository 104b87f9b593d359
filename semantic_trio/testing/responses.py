"""Responses that last as long as the object that plays the database."""

import threading
from collections.abc import Callable, Iterator

import attrs

from semantic_trio.domain.errors import StoreError
from semantic_trio.domain.responses import StoredResponse, is_to_be_written


def _nothing(what: str) -> None:
    pass


@attrs.define(eq=False)
class MemoryResponses:
    """See `ResponseStore`."""

    # is told the method that was called; may raise or wait, to play a database that is gone or slow
    before: Callable[[str], None] = _nothing
    is_closed: bool = attrs.field(init=False, default=False)
    _records: dict[str, StoredResponse] = attrs.field(init=False, factory=dict)
    _days: list[int] = attrs.field(init=False, factory=list)  # on which a server was working
    # on which of them, by place in the list; -1: before the first
    _came: dict[str, int] = attrs.field(init=False, factory=dict)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    def put(self, response: StoredResponse) -> None:
        """See `ResponseStore.put`."""
        self._open("put")
        with self._lock:
            if is_to_be_written(response, self._records.get(response.id), self._parent(response)):
                self._records[response.id] = response
                self._came.setdefault(response.id, len(self._days) - 1)

    def get(self, response_id: str) -> StoredResponse | None:
        """See `ResponseStore.get`."""
        self._open("get")
        found = self._records.get(response_id)
        return None if found is None or found.is_deleted else found

    def chain(self, response_id: str) -> tuple[StoredResponse, ...]:
        """See `ResponseStore.chain`."""
        self._open("chain")
        with self._lock:
            return tuple(self._upwards(response_id))[::-1]

    def delete(self, response_id: str) -> bool:
        """See `ResponseStore.delete`."""
        self._open("delete")
        with self._lock:
            found = self._records.get(response_id)
            if found is None or found.is_deleted:
                return False
            self._records[response_id] = found.deleted()
            return True

    def prune(self, today: int, days: int) -> int:
        """See `ResponseStore.prune`."""
        self._open("prune")
        with self._lock:
            if not self._days or today > self._days[-1]:
                self._days.append(today)
            self._days[-1] = today
            oldest = len(self._days) - 1 - days
            if not days or oldest < 0:
                return 0
            newer = [name for name, number in self._came.items() if number >= oldest]
            kept = {one.id: one for name in newer for one in self._upwards(name)}
            removed = len(self._records) - len(kept)
            self._records = kept
            self._came = {name: number for name, number in self._came.items() if name in kept}
            return removed

    def close(self) -> None:
        """See `ResponseStore.close`."""
        self.is_closed = True

    def _open(self, what: str) -> None:
        self.before(what)
        if self.is_closed:
            raise StoreError("the database is closed")

    def _parent(self, response: StoredResponse) -> StoredResponse | None:
        return self._records.get(response.parent) if response.parent is not None else None

    def _upwards(self, response_id: str) -> Iterator[StoredResponse]:
        record = self._records.get(response_id)
        while record is not None:
            yield record
            record = self._parent(record)
