"""The memory of agents with a disk behind it, under any order of events: slow, full, broken and
damaged disks, and crashes of the process.
"""

import types
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import nullcontext

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import settings
from hypothesis.stateful import initialize, invariant, precondition, rule

from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import unpack
from semantic_trio.domain.content import Content, Item
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import CachePersistenceError, StepFailedError
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.pins import PINS_SHARE
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.snapshots import SNAPSHOTS_SHARE
from semantic_trio.domain.store import Store
from semantic_trio.testing import MemoryFiles
from tests.search import examples
from tests.unit.test_memory import SPECS, Device, MemoryMachine, text

Task = Coroutine[str, BaseException | None, None]


@types.coroutine
def pause(where: str) -> Generator[str, BaseException | None, None]:
    """Somebody else's turn: the machine goes on when it likes, and says what went wrong
    meanwhile.
    """
    error = yield where
    if error is not None:
        raise error


# Where what goes wrong.
_FAULTS: dict[type[BaseException], str] = {OSError: "disk", StepFailedError: "device"}


class SlowDevice(Device):
    """Others may come between what it is asked and what it does, and between that and its
    answer.
    """

    async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
        await pause("device")
        contents = await super().export(items)
        await pause("answer")
        return contents

    async def load(self, items: Mapping[Item, Content]) -> None:
        await pause("device")
        await super().load(items)
        await pause("answer")


async def slowly(function: Callable[..., object], *arguments: object) -> object:
    await pause("disk")
    done = function(*arguments)
    await pause("answer")
    return done


async def _checkpoint() -> None:
    pass


def delete_unless_pinned(
    store: Store, item: Item, delete: Callable[[Store, Item], None] = Store.delete
) -> None:
    assert item not in store.disk.known or not store.disk.known[item].pins, (
        "what is pinned stays on disk"
    )
    delete(store, item)


class DiskMachine(MemoryMachine):
    """What is written, read and deleted takes its time, and everything else goes on meanwhile."""

    @initialize(
        kind=st.sampled_from(sorted(SPECS)),
        rows=st.integers(1, 4),
        chunk=st.sampled_from([16, 50]),
        blocks=st.integers(14, 60),
        disk_bytes=st.sampled_from([14_000, 20_000, 40_000, 1_000_000]),
        agents=st.sampled_from([3, 12]),
    )
    def begin(
        self, kind: str, rows: int, chunk: int, blocks: int, disk_bytes: int, agents: int
    ) -> None:  # type: ignore[override]
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(trio, "current_time", lambda: 0.0)
        self.patch.setattr(trio.lowlevel, "checkpoint", _checkpoint)
        self.patch.setattr(Store, "delete", delete_unless_pinned)
        self.spec, self.agents, self.disk_bytes = SPECS[kind], agents, disk_bytes
        self.limits = Limits(
            context_length=400, max_rows=rows, chunk_tokens=chunk, max_stall_seconds=1.0
        )
        self.budget = blocks * sum(self.spec.row_amount(16, chunk)) // 2
        self.askers, self.requests = set[str](), 0
        self.histories = [text(seed, 40 + 23 * (seed % 7)) for seed in range(6)]
        self.files, self.broken, self.salts_of_keys = (
            MemoryFiles(),
            set[Item](),
            dict[bytes, Salt](),
        )
        self.start()

    def start(self) -> None:
        """A process begins with what is on disk."""
        self.memory = Memory(
            self.spec,
            self.budget,
            self.limits.chunk_tokens,
            max_agents=self.agents,
            disk=Disk(self.disk_bytes),
        )
        self.scheduler, self.device = (
            Scheduler(self.limits, self.memory),
            SlowDevice(spec=self.spec),
        )
        self.persistence = Persistence(
            self.memory,
            self.device,
            self.files,
            lambda: None,
            floor_bytes=1000,
            readers=4,
            in_thread=slowly,
        )  # type: ignore[arg-type]
        self.alive, self.ranks, self.salts_of_rows = [], {}, dict[int, Salt]()
        self.writer: Task | None = None
        self.waits = dict[Task, str]()  # for what
        self.readers = dict[Task, Item]()
        opening = self.persistence.open()
        while self._goes_on(opening):
            pass
        self.askers |= {agent.id for agent in self.memory.agents}
        # what records take is a guess until they are written
        self.most = max(self.disk_bytes, self.memory.disk.used)

    # ---------------------------------------------------------------------------------------- rules

    @precondition(lambda self: self.writer or not self.memory.disk.is_idle)
    @rule(steps=st.integers(1, 200))
    def write(self, steps: int) -> None:
        for _ in range(steps):
            self._write(None)

    @precondition(lambda self: self.writer)
    @rule(is_device=st.booleans())
    def write_in_vain(self, is_device: bool) -> None:
        self._write(StepFailedError("on fire") if is_device else OSError("no space left"))

    @precondition(lambda self: self.readers or self.memory.disk.reading)
    @rule(choice=st.integers(0, 99), steps=st.integers(1, 60))
    def read(self, choice: int, steps: int) -> None:
        for _ in range(steps):
            self._read(choice, None)

    @precondition(lambda self: self.readers)
    @rule(choice=st.integers(0, 99), is_device=st.booleans())
    def read_in_vain(self, choice: int, is_device: bool) -> None:
        if not is_device:
            self.broken.add(list(self.readers.values())[choice % len(self.readers)])
        self._read(
            choice, StepFailedError("on fire") if is_device else OSError("input/output error")
        )

    @precondition(lambda self: self.files.index())
    @rule(choice=st.integers(0, 99), is_gone=st.booleans())
    def damage(self, choice: int, is_gone: bool) -> None:
        items = list(self.files.index())
        item = items[choice % len(items)]
        self.broken.add(item)
        if is_gone:
            self.files.remove(item)
        else:
            self.files.damage(item)

    @rule(is_full=st.booleans())
    def fill(self, is_full: bool) -> None:
        self.files.free = 0 if is_full else 1 << 40

    @rule(steps=st.integers(1, 200))
    def cool_down(self, steps: int) -> None:
        """Turns end, what is left of them is written, and leaves RAM."""
        for _ in range(steps):
            self.advance(1)
            self.write(5)
        self.memory.store.evict_all()

    @rule()
    def crash(self) -> None:
        for task in [*self.readers, *([self.writer] if self.writer else [])]:
            task.close()
        self.start()

    # -------------------------------------------------------------------------------------- at work

    def _goes_on(self, task: Task, error: BaseException | None = None) -> bool:
        """Whether a task has more to do after its next step.

        An error is what went wrong with what it waits for.
        """
        try:
            self.waits[task] = task.send(
                error if self.waits.get(task) == _FAULTS.get(type(error)) else None
            )
        except StopIteration:
            return False
        return True

    def _write(self, error: Exception | None) -> None:
        if self.writer is None:
            if self.memory.disk.is_idle:
                return
            # it has not begun, and cannot fail yet
            self.writer, error = self.persistence._write_next(), None
        try:
            if not self._goes_on(self.writer, error):
                self.writer = None
        except (OSError, CachePersistenceError, StepFailedError) as stopped:
            self.writer = None
            self.persistence._stop(stopped)

    def _read(self, choice: int, error: Exception | None) -> None:
        for kept in self.memory.disk.take_reads():
            task = self.persistence._reading._bring_back(kept, nullcontext())  # type: ignore[arg-type]
            if self._goes_on(task):
                self.readers[task] = kept.item
        if self.readers:
            task = list(self.readers)[choice % len(self.readers)]
            if not self._goes_on(task, error):
                del self.readers[task]

    # ----------------------------------------------------------------------------------- invariants

    @invariant()
    def pins_and_snapshots_keep_their_bounds(self) -> None:
        """Snapshots that wait for the disk, or did a moment ago, are beside their share."""
        share = self.memory.budget_bytes * SNAPSHOTS_SHARE
        assert self.memory.pins.snapshot_bytes <= share * PINS_SHARE
        assert self.memory.pins.bytes <= self.memory.budget_bytes * PINS_SHARE

    @invariant()
    def what_is_written_is_on_disk(self) -> None:
        index = self.files.index()
        for item, kept in self.memory.disk.known.items():
            assert kept.is_on_disk
            assert item in index or item in self.broken, "the books say it is on disk"
            assert self.memory.disk.size(item) == index.get(item, self.memory.disk.size(item))

    @invariant()
    def the_disk_keeps_to_its_budget(self) -> None:
        assert self.memory.disk.used <= self.most

    @invariant()
    def what_is_kept_is_what_was_read(self) -> None:
        """By name, on the device and on disk."""
        for block in self.memory.store.tree.blocks():
            stored = self.device.blocks.get(block.key)
            assert stored in (None, unpack(block.packed)), "on the device"
            written = self.files._contents.get(block.item)
            assert written is None or bytes(written["tokens"].data) == block.packed, "on disk"

    def teardown(self) -> None:
        try:
            self.finish()
            self.come_back()
        finally:
            self.patch.undo()

    def finish(self) -> None:
        """Nobody asks for more, and nothing goes wrong any more but what has."""
        for agent in self.memory.agents:
            self.memory.unpin(agent)
        for _ in range(6000):
            self._write(None)
            self._read(0, None)
            plan = self.plan()
            self._take(self.scheduler.refused())
            if plan is not None:
                self._take(self.scheduler.commit(self.device.advance(plan)))
                self.scheduler.elapse(20.0)
            elif not (self.alive or self.readers) and (
                self._is_written or not self.memory.disk.is_open
            ):
                break
        assert not self.alive, "everyone is served or refused in the end"
        assert self.scheduler.is_idle
        assert self._reconcile() == [], "the device holds what the memory believes"

    def come_back(self) -> None:
        """Who was whole in memory is whole after a restart, where the disk had room and took no
        harm.
        """
        if self.broken or not self._is_written or self.persistence.traffic.evicted:
            return
        whole = [
            agent
            for agent in self.memory.agents
            if agent.history and self._reach(agent) == agent.tokens
        ]
        self.start()
        for agent in whole:
            again = self.memory.agents.get(agent.id)
            assert again.history == agent.history
            assert self._reach(again) == agent.tokens

    @property
    def _is_written(self) -> bool:
        return self.memory.disk.is_idle and self.writer is None

    def _reach(self, agent: Agent) -> int:
        return self.memory.store.tree.reach(self.memory.run_of(agent), agent.tokens).length


TestMemoryWithDisk = DiskMachine.TestCase
TestMemoryWithDisk.settings = settings(
    max_examples=examples(300), stateful_step_count=60, deadline=None
)
TestMemoryWithDisk = pytest.mark.exhaustive(pytest.mark.timeout(1200)(TestMemoryWithDisk))
