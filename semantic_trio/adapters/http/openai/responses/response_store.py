"""The client of the response store, which calls the store in worker threads.

Knows threads, and that a store may not be open yet. Knows nothing of responses.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import attrs

from semantic_trio.adapters.http.serving.dedicated_threads import DedicatedThreads
from semantic_trio.application.threads import InThread
from semantic_trio.ports.response_store import ResponseStore

Result = TypeVar("Result")

# Calls at the same time: a store has one connection, and a database that hangs must not take
# threads from other work.
STORE_THREADS = 4


@attrs.define(eq=False)
class ResponseStoreClient:
    """A `ResponseStore` that is opened when it is first needed, and again after opening has
    failed.
    """

    _open: Callable[[], ResponseStore]  # blocking; raises `StoreError`
    _in_thread: InThread = attrs.field(factory=lambda: DedicatedThreads(STORE_THREADS))
    _store: ResponseStore | None = attrs.field(init=False, default=None)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    async def call(self, question: Callable[[ResponseStore], Result]) -> Result:
        """Call the store and return its result.

        Cancellation does not stop the call. Raises what the call raises, and `StoreError`.
        """
        return await self._in_thread(self._answer, question)

    def close(self) -> None:
        """Close the store. Blocks until running calls are done."""
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _answer(self, question: Callable[[ResponseStore], Result]) -> Result:
        with self._lock:
            if self._store is None:
                self._store = self._open()
        return question(self._store)
