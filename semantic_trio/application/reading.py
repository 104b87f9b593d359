"""Loads from disk: entries are read in worker threads, checked, and loaded onto the device before
they are needed.

Knows trio, the memory's orders, the runner and the files. The memory orders reads and takes their
results.
"""

import os
from collections.abc import Callable

import attrs
import structlog
import trio

from semantic_trio.application.threads import WatchedWork
from semantic_trio.application.traffic import Traffic
from semantic_trio.domain.content import Content, Item, positions_in, tokens_in
from semantic_trio.domain.entries import Block, CacheEntry, Snapshot
from semantic_trio.domain.errors import (
    CacheCorruptionError,
    IncompatibleCacheError,
    StepFailedError,
)
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.observation import Loaded
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.ports.observing import Observer
from semantic_trio.ports.runner import ModelRunner

log = structlog.get_logger(__name__)

# Files read at the same time; what they hold takes room beside the budget until the device has it.
# Half of the processors stay free: a thread that is put aside while it holds the interpreter stops
# the event loop too.
READERS = max(1, min(4, (os.cpu_count() or 1) // 2))


@attrs.define
class _Burst:
    """Reading without a break."""

    since: float = 0.0
    context: int = 0  # tokens before the first that is read
    tokens: int = 0
    entries: int = 0
    size_bytes: int = 0


@attrs.define(eq=False)
class DiskReader:
    """Brings back what the memory has ordered."""

    memory: Memory
    runner: ModelRunner
    files: CacheFiles
    nudge: Callable[[], None]  # the engine, where something has come
    # reading so many tokens behind others; 0 while unknown
    seconds_to_compute: Callable[[int, int], float]
    readers: int
    reads: WatchedWork
    writes: WatchedWork
    traffic: Traffic
    observer: Observer
    _has_reads: trio.Event = attrs.field(init=False, factory=trio.Event)
    _under_way: int = attrs.field(init=False, default=0)  # files that are or will be read
    _burst: _Burst = attrs.field(init=False, factory=_Burst)

    def wake(self) -> None:
        """Wake the reader: there may be entries to read."""
        self._has_reads.set()

    async def run(self) -> None:
        """Read until cancelled."""
        limit = trio.Semaphore(self.readers)
        async with trio.open_nursery() as nursery:
            while True:
                await self._has_reads.wait()
                self._has_reads = trio.Event()
                for entry in self.memory.disk.take_reads():
                    nursery.start_soon(self._bring_back, entry, limit)

    async def put_aside(self, what: Item | str, reason: str) -> None:
        """Keep what is damaged where nobody reads it again, with the reason beside it."""
        try:
            await self.writes.do(self.files.put_aside, what, reason)
        except OSError as error:
            log.warning("a damaged file could not be put aside", reason=str(error))

    async def _bring_back(self, entry: CacheEntry, limit: trio.Semaphore) -> None:
        self._begin(entry)
        async with limit:
            has_come = entry.is_loading and await self._load(entry)
        self._end(entry if has_come else None)
        self.memory.store.loaded(entry, has_come=has_come)
        self.nudge()

    async def _load(self, entry: CacheEntry) -> bool:
        """Have the device store what is on disk.

        What is damaged is put aside, and computed again.
        """
        try:
            content = await self.reads.do(self.files.read, entry.item)
            _check_tokens(entry, content)
            await self.runner.load({entry.item: content})
        except (CacheCorruptionError, IncompatibleCacheError, OSError) as error:
            if entry.is_on_disk:  # not deleted meanwhile
                await self._lose(entry, error)
            return False
        except StepFailedError as error:
            log.error("memory could not be brought back", reason=error.reason)
            return False
        return True

    async def _lose(
        self, entry: CacheEntry, error: CacheCorruptionError | IncompatibleCacheError | OSError
    ) -> None:
        """Put something aside before the memory hears of it: from then on it may be written
        anew.
        """
        is_newer = isinstance(error, IncompatibleCacheError)
        self.traffic.damaged += not is_newer
        event = (
            "memory of a newer version is computed again"
            if is_newer
            else "memory on disk is damaged and will be computed again"
        )
        log.warning(event, name=entry.key.hex(), reason=str(error))
        if isinstance(error, CacheCorruptionError):
            await self.put_aside(entry.item, error.reason)
        self.memory.store.lost(entry)

    def _begin(self, entry: CacheEntry) -> None:
        if not self._under_way:
            context = entry.start if isinstance(entry, Block) else 0
            self._burst = _Burst(trio.current_time(), context)
        self._under_way += 1

    def _end(self, entry: CacheEntry | None) -> None:
        """Count what was read, and compare with what computing it would have taken."""
        self._under_way -= 1
        self.memory.disk.is_stuck = False
        burst, traffic = self._burst, self.traffic
        if entry is not None:
            burst.entries += 1
            burst.size_bytes += self.memory.store.size(entry)
            burst.tokens += entry.tokens if isinstance(entry, Block) else 0
        if self._under_way:
            return
        seconds = trio.current_time() - burst.since
        traffic.read_bytes += burst.size_bytes
        traffic.read_tokens += burst.tokens
        traffic.read_seconds += seconds
        traffic.slower += 0 < self.seconds_to_compute(burst.tokens, burst.context) < seconds
        if burst.entries:
            size = burst.size_bytes
            self.observer.observe(
                Loaded(entries=burst.entries, tokens=burst.tokens, size_bytes=size, seconds=seconds)
            )


def _check_tokens(entry: CacheEntry, content: Content) -> None:
    """The device knows no tokens, and would find out with the first row that begins there.

    Raises `CacheCorruptionError`.
    """
    if isinstance(entry, Snapshot):
        found, wanted = positions_in(content), entry.position
    else:
        assert isinstance(entry, Block)
        found, wanted = tokens_in(content), entry.tokens
    if found - {wanted}:
        raise CacheCorruptionError(
            f"{entry.kind} {entry.key.hex()}", f"is of {sorted(found)} tokens, not {wanted}"
        )
