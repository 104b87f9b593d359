"""Persistence of the memory: new blocks, snapshots and records are written to disk behind the
answers, and read back before they are needed.

Knows trio, the memory's orders, the runner and the files. Decides nothing: the memory orders
writes, reads and deletions. Files are worked on in worker threads, which never touch the device.
"""

import math
from collections.abc import Callable, Sequence

import attrs
import structlog
import trio

from semantic_trio.application.adoption import Adoption
from semantic_trio.application.observers import Observers
from semantic_trio.application.reading import READERS, DiskReader
from semantic_trio.application.threads import PATIENCE_SECONDS, InThread, WatchedWork
from semantic_trio.application.traffic import Traffic
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.content import AgentRecord, Content, ImportTrust, Item
from semantic_trio.domain.entries import CacheEntry
from semantic_trio.domain.errors import CachePersistenceError, StepFailedError
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.observation import Evicted, Written
from semantic_trio.domain.records import listed, record_of, size_of
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.ports.observing import Observer
from semantic_trio.ports.runner import ModelRunner

log = structlog.get_logger(__name__)

# Bytes exported from the device at a time: until they are written they take memory beside the
# budget.
WRITE_BYTES = 64 << 20
# Bytes of a file beside its content, about: its header.
FILE_BYTES = 8192
# Seconds without writes after the disk has refused one; doubled each time, up to the longest.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


@attrs.define(eq=False)
class Persistence:
    """The disk tier of one model at work.

    `open` before `run`, and `flush` before `run` is cancelled.
    """

    memory: Memory
    runner: ModelRunner
    files: CacheFiles
    nudge: Callable[[], None]  # wakes the engine after a load or freed memory
    # of computing so many tokens after a context; 0 while unknown
    seconds_to_compute: Callable[[int, int], float] = lambda tokens, context: 0.0
    floor_bytes: int = 0  # free space to leave on the file system
    import_trust: ImportTrust = ImportTrust.AGENT
    allowance: Allowance = attrs.field(factory=Allowance)
    readers: int = READERS
    observer: Observer = attrs.field(factory=Observers)
    # runs file work; tests on virtual time run it in line
    in_thread: InThread = trio.to_thread.run_sync
    traffic: Traffic = attrs.field(init=False, factory=Traffic)
    # reason why writes are stopped; empty: they are not
    refused: str = attrs.field(init=False, default="")
    _used: int = attrs.field(init=False, default=0)  # last number given in the order of records
    _has_work: trio.Event = attrs.field(init=False, factory=trio.Event)
    _progress: trio.Event = attrs.field(init=False, factory=trio.Event)
    _remove_again_at: float = attrs.field(init=False, default=math.inf)
    _keeps_all: bool = attrs.field(init=False, default=False)  # the last deletion failed
    _reading: DiskReader = attrs.field(init=False)
    _writes: WatchedWork = attrs.field(init=False)
    _reads: WatchedWork = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._reads, self._writes = WatchedWork(self.in_thread), WatchedWork(self.in_thread)
        self._reading = DiskReader(
            self.memory,
            self.runner,
            self.files,
            self.nudge,
            self.seconds_to_compute,
            self.readers,
            self._reads,
            self._writes,
            self.traffic,
            self.observer,
        )

    async def open(self) -> None:
        """Index the files of earlier processes and adopt the agents on record.

        Raises `OSError` if the directory cannot be read.
        """
        adoption = Adoption(self.memory, self.files, self._reads, self._reading)
        self._used = await adoption.run()
        self.memory.disk.on_change = self._wake

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out writes, deletions and reads until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write_behind)
            nursery.start_soon(self._reading.run)
            nursery.start_soon(self._watch)
            task_status.started()

    async def flush(self, seconds: float) -> int:
        """Wait until no write is pending, for `seconds` at most.

        Returns the number of writes still pending.
        """
        disk = self.memory.disk
        with trio.move_on_after(seconds):
            while not disk.is_idle and disk.is_open:
                await self._progress.wait()
        if disk.waiting:
            log.warning(
                "not all memory is on disk",
                waiting=disk.waiting,
                reason=self.refused or f"no time left after {seconds:.0f} s",
            )
        return disk.waiting

    async def _watch(self) -> None:
        """Detect a disk that hangs: until it responds, loads are cancelled, and entries with a
        pending write may be evicted.
        """
        while True:
            await trio.sleep(PATIENCE_SECONDS / 2)
            if self._writes.hangs():
                self._stop(TimeoutError(f"the disk has done nothing for {PATIENCE_SECONDS:.0f} s"))
            if self._reads.hangs():
                log.warning(
                    "memory on disk does not come",
                    reason=f"the disk has done nothing for {PATIENCE_SECONDS:.0f} s",
                )
                self.memory.disk.is_stuck = True
                self.memory.store.cancel_loads()
                self.nudge()

    def _wake(self) -> None:
        self._has_work.set()
        self._reading.wake()

    # ---------------------------------------------------------------------------------------- write

    async def _write_behind(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while True:
            if self.memory.disk.is_idle:
                await self._wait_for_work()
                continue
            try:
                await self._write_next()
            except (OSError, CachePersistenceError, StepFailedError) as error:
                self._stop(error)
                await trio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_SECONDS)
            else:
                pause = FIRST_PAUSE_SECONDS
            self._progress.set()
            self._progress = trio.Event()

    async def _wait_for_work(self) -> None:
        with trio.move_on_at(self._remove_again_at):
            await self._has_work.wait()
            self._has_work = trio.Event()
        if trio.current_time() >= self._remove_again_at:
            self._remove_again_at = math.inf
            self.memory.disk.remove_again()

    async def _write_next(self) -> None:
        disk = self.memory.disk
        if (removal := disk.next_removal()) is not None:
            await self._remove(removal)
        elif (agent := disk.next_record()) is not None:
            await self._write_record(agent)
        else:
            await self._write_entries(disk.next_writes(WRITE_BYTES, self.memory.store.size))

    async def _write_entries(self, batch: Sequence[CacheEntry]) -> None:
        """Write blocks and snapshots, one by one.

        Entries that a row has taken over meanwhile are written when that row closes.
        """
        started, sizes = trio.current_time(), list[int]()
        contents, store = (
            await self.runner.export([entry.item for entry in batch]),
            self.memory.store,
        )
        for entry in [entry for entry in batch if entry.item not in contents]:
            store.not_written(entry)
            self.nudge()
        for entry in batch:
            if entry.item in contents and not entry.is_removed:
                size = await self._put(
                    store.size(entry), self.files.write, entry.item, contents[entry.item]
                )
                store.written(entry, size)
                sizes.append(size)
                self.nudge()
        if sizes:
            seconds = trio.current_time() - started
            self.observer.observe(
                Written(agent=None, entries=len(sizes), size_bytes=sum(sizes), seconds=seconds)
            )

    async def _write_record(self, agent: Agent) -> None:
        started, self._used = trio.current_time(), self._used + 1
        record = record_of(self.memory, agent, self._used)
        disk, is_written = self.memory.disk, False
        disk.begin_record(agent)
        try:
            size = await self._put(size_of(record), self.files.write_agent, record)
            is_written = True
        finally:
            disk.end_record(is_written=is_written)
        self.memory.store.unlisted(
            disk.recorded(agent, size, listed(self.memory, record))
            if agent.is_listed
            else disk.remove_agent(agent)
        )
        # so that of one agent the end is deleted first
        for block in reversed(self.memory.chain(agent)):
            disk.touch(block.item)
        self.observer.observe(
            Written(
                agent=agent.id, entries=1, size_bytes=size, seconds=trio.current_time() - started
            )
        )

    async def _put(
        self, expected: int, write: Callable[..., int], *what: Item | Content | AgentRecord
    ) -> int:
        """Write a file within allowance, budget and free space.

        Returns its bytes. Raises `CachePersistenceError` or `OSError`.
        """
        started = trio.current_time()
        self.memory.disk.is_sparing = self.allowance.is_sparing(started)
        if not self.allowance.allows(expected, started):
            raise CachePersistenceError(
                f"{self.allowance.limit_bytes} bytes were written within a day, and no more may be"
            )
        await self._free_space(expected + FILE_BYTES)
        size = await self._writes.do(write, *what)
        self.allowance.spend(size, started)
        self.traffic.written_bytes += size
        self.traffic.write_seconds += trio.current_time() - started
        await self._resume()
        return size

    async def _free_space(self, wanted: int) -> None:
        """Free disk space for bytes that are to be written.

        Entries over the budget are evicted first, then pending removals are carried out, and only
        then is the space counted. Raises `CachePersistenceError` if it is too little.
        """
        disk = self.memory.disk
        evicted = 0
        for item in disk.over(wanted):
            self.memory.store.delete(item)
            evicted += 1
        if evicted:
            self.traffic.evicted += evicted
            self.observer.observe(Evicted(tier="disk", entries=evicted))
        while (removal := disk.next_removal()) is not None:
            await self._remove(removal)
        if disk.used + wanted > disk.budget_bytes:
            raise CachePersistenceError(
                f"pinned agents take all {disk.budget_bytes} bytes of the disk budget"
            )
        free = await self._writes.do(self.files.free_bytes)
        if free - wanted < self.floor_bytes:
            raise CachePersistenceError(
                f"{free} bytes are free on the disk, and {self.floor_bytes} are to stay so"
            )

    async def _remove(self, what: Item | str) -> None:
        """Delete an item or an agent's record.

        A deletion that fails is set aside and tried again later.
        """
        try:
            if isinstance(what, str):
                await self._writes.do(self.files.remove_agent, what)
            else:
                await self._writes.do(self.files.remove, what)
        except OSError as error:
            if not self._keeps_all:
                log.warning(
                    "memory cannot be deleted from disk",
                    name=what if isinstance(what, str) else what.key.hex(),
                    reason=str(error),
                )
            self._keeps_all, self._remove_again_at = (
                True,
                trio.current_time() + LONGEST_PAUSE_SECONDS,
            )
            self.memory.disk.put_off(what)
        else:
            self._keeps_all = False
            self.memory.disk.removed(what)

    def _stop(self, error: Exception) -> None:
        """Stop writing: entries with a pending write may be evicted meanwhile, so that serving goes
        on.
        """
        if not self.refused:
            log.warning("memory is not written to disk", reason=str(error))
        self.refused, self.memory.disk.is_open = str(error), False
        self.nudge()

    async def _resume(self) -> None:
        """Go on writing after the disk has refused.

        Files that are gone, with a deleted directory for instance, are written again.
        """
        if not self.refused:
            return
        index = await self._writes.do(self.files.index)
        for item in self.memory.disk.missing(index):
            self.memory.store.vanished(item)
        self.refused, self.memory.disk.is_open = "", True
        log.info("memory is written to disk again")
        for agent in list(self.memory.agents):
            self.memory.write(agent)

    async def removed(self, seconds: float) -> None:
        """Return when no deletion is pending, failed ones aside, or after `seconds`."""
        with trio.move_on_after(seconds):
            while self.memory.disk.next_removal() is not None:
                await self.progressed()

    async def progressed(self) -> None:
        """Return after the next write or deletion, failed ones included."""
        await self._progress.wait()
