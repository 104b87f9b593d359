"""The store of responses, asked where its answers are waited for and nobody else has to.

Knows threads, and that a store may not be there yet. Knows nothing of responses.
"""

import threading
from collections.abc import Callable
from typing import TypeVar

import attrs

from semantic_trio.adapters.http.serving.dedicated_threads import DedicatedThreads
from semantic_trio.application.threads import InThread
from semantic_trio.ports import ResponseStore

Result = TypeVar("Result")

# Questions under way at the same time: a store has one connection, and where its database hangs no other work has to wait for a thread.
STORE_THREADS = 4


@attrs.define(eq=False)
class ResponseStoreClient:
    """A `ResponseStore` that is opened when it is needed, and again when that went wrong."""

    _open: Callable[[], ResponseStore]  # blocking; raises `StoreError`
    _in_thread: InThread = attrs.field(factory=lambda: DedicatedThreads(STORE_THREADS))
    _store: ResponseStore | None = attrs.field(init=False, default=None)
    _lock: threading.Lock = attrs.field(init=False, factory=threading.Lock)

    async def call(self, question: Callable[[ResponseStore], Result]) -> Result:
        """What the store says. To be cancelled changes nothing of what the store does. Raises what the question raises, and `StoreError`."""
        return await self._in_thread(self._answer, question)

    def close(self) -> None:
        """Give the store back. Blocks until it has done what it was asked."""
        with self._lock:
            if self._store is not None:
                self._store.close()

    def _answer(self, question: Callable[[ResponseStore], Result]) -> Result:
        with self._lock:
            if self._store is None:
                self._store = self._open()
        return question(self._store)
