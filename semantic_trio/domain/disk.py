"""The files of one model's memory on disk: sizes, order of use, and queues of pending writes, reads
and deletions.

Knows names, sizes and the order of use, which is counted and not timed. Knows nothing of files: it
orders, and callers report the results.
"""

import collections
from collections.abc import Callable, Container, Iterable, Iterator

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.entries import Block, CacheEntry, Snapshot

# Damaged entries that are remembered as the cause of a cache miss; older ones are dropped.
MOST_DAMAGED = 10_000


def _ignore() -> None:
    pass


@attrs.define(eq=False)
class Disk:
    """The disk tier of one model's memory.

    A budget of 0 turns the disk tier off: all queues stay empty.
    """

    budget_bytes: int = 0
    # called when a queue has a new order
    on_change: Callable[[], None] = attrs.field(default=_ignore, repr=False)
    # False while the disk refuses writes: entries with a pending write may be evicted then
    is_open: bool = True
    is_stuck: bool = attrs.field(init=False, default=False)  # True while reads hang
    # True: only entries of ended turns are written, to save the daily write allowance
    is_sparing: bool = attrs.field(init=False, default=False)
    used: int = attrs.field(init=False, default=0)  # bytes, with records of agents
    # being read, cancelled loads included
    reading: set[CacheEntry] = attrs.field(init=False, factory=set)
    # entries of the tree that are on disk
    known: dict[Item, CacheEntry] = attrs.field(init=False, factory=dict)
    # least recently used first
    _sizes: collections.OrderedDict[Item, int] = attrs.field(
        init=False, factory=collections.OrderedDict
    )
    _records: dict[str, int] = attrs.field(init=False, factory=dict)  # bytes of agents' records
    # snapshots and partial blocks that the record of an agent needs
    _listed: dict[str, frozenset[Item]] = attrs.field(init=False, factory=dict)
    _listings: collections.Counter[Item] = attrs.field(init=False, factory=collections.Counter)
    _to_write: dict[CacheEntry | Agent, None] = attrs.field(init=False, factory=dict)  # in order
    _being_recorded: Agent | None = attrs.field(init=False, default=None)
    _to_read: dict[CacheEntry, None] = attrs.field(init=False, factory=dict)
    # a string is an agent's id
    _to_remove: dict[Item | str, None] = attrs.field(init=False, factory=dict)
    # deletions that failed
    _put_off: dict[Item | str, None] = attrs.field(init=False, factory=dict)
    # keys of blocks with a damaged entry behind them
    _damaged_after: dict[bytes, None] = attrs.field(init=False, factory=dict)

    @property
    def exists(self) -> bool:
        """True if there is a disk tier."""
        return self.budget_bytes > 0

    @property
    def is_empty(self) -> bool:
        """True if no block or snapshot is on disk."""
        return not self._sizes

    def __contains__(self, item: Item) -> bool:
        return item in self._sizes

    def size(self, item: Item) -> int:
        """Return the bytes of a block or snapshot on disk; 0 if it is not there."""
        return self._sizes.get(item, 0)

    def has_block(self, key: bytes) -> bool:
        """True if a block is on disk."""
        return Item(Kind.BLOCK, key) in self._sizes

    def touch(self, item: Item) -> None:
        """Make a block or snapshot the most recently used one."""
        if item in self._sizes:
            self._sizes.move_to_end(item)

    # ------------------------------------------------------------------------------------- to write

    def write(self, one: CacheEntry | Agent, listed: frozenset[Item] = frozenset()) -> None:
        """Queue a write; that of a record goes behind all others.

        The entries that the record will have `listed` are kept from now on.
        """
        if isinstance(one, Agent):
            self._to_write.pop(one, None)
            self._list(one.id, self._listed.get(one.id, frozenset()) | listed)
        self._to_write[one] = None
        self.on_change()

    def is_to_write(self, one: CacheEntry | Agent) -> bool:
        """True if an entry or record has a pending write."""
        return one in self._to_write

    def cancel_write(self, one: CacheEntry | Agent) -> None:
        """Cancel the pending write of an entry or record, if there is one."""
        self._to_write.pop(one, None)

    @property
    def makes_room(self) -> bool:
        """True if pending writes will make entries evictable from RAM."""
        return self.is_open and any(isinstance(one, CacheEntry) for one in self._to_write)

    @property
    def waiting(self) -> int:
        """Number of pending writes, a record that is being written included."""
        return len(self._to_write) + (self._being_recorded is not None)

    def next_record(self) -> Agent | None:
        """Return the agent whose record is the next write; None if the next write is an entry, or
        there is none.
        """
        first = next(iter(self._to_write), None)
        return first if isinstance(first, Agent) else None

    def begin_record(self, agent: Agent) -> None:
        """Take the record of an agent out of the queue: it is being written.

        A later change queues it again.
        """
        del self._to_write[agent]
        self._being_recorded = agent

    def end_record(self, *, is_written: bool) -> None:
        """End the write of a record. A record that was not written is queued again."""
        agent, self._being_recorded = self._being_recorded, None
        if agent is not None and agent.is_listed and not is_written:
            self.write(agent)

    def next_writes(self, limit_bytes: int, size: Callable[[CacheEntry], int]) -> list[CacheEntry]:
        """Return the next blocks and snapshots to write, at least one, then up to `limit_bytes`;
        none if a record is next.

        They stay queued.
        """
        chosen: list[CacheEntry] = []
        for one in self._to_write:
            if isinstance(one, Agent) or (chosen and size(one) > limit_bytes):
                break
            chosen.append(one)
            limit_bytes -= size(one)
        return chosen

    def added(self, item: Item, size: int) -> None:
        """Note that a block or snapshot is on disk, as the most recently used one."""
        self.removed(item)
        self.used += size - self._sizes.pop(item, 0)
        self._sizes[item] = size

    def missing(self, there: Container[Item]) -> list[Item]:
        """Return the blocks and snapshots that should be on disk but are not `there`."""
        return [item for item in self._sizes if item not in there]

    # -------------------------------------------------------------------------------------- to read

    def read(self, kept: Iterable[CacheEntry]) -> None:
        """Queue reads of blocks and snapshots, in this order."""
        for one in kept:
            if one not in self.reading:  # else its load was cancelled, and the read still runs
                self._to_read[one] = None
                self.reading.add(one)
        self.on_change()

    def take_reads(self) -> list[CacheEntry]:
        """Return the queued reads and empty the queue."""
        wanted, self._to_read = list(self._to_read), {}
        return wanted

    @property
    def coming_keys(self) -> set[bytes]:
        """Keys of entries that are being read: the device may store them already."""
        return {kept.key for kept in self.reading}

    def damaged(self, kept: CacheEntry) -> None:
        """Note that an entry could not be read: turns that would have used it report this cause."""
        after = (
            kept.after
            if isinstance(kept, Snapshot)
            else kept.parent
            if isinstance(kept, Block)
            else None
        )
        assert after is not None, "the root is never read"
        self._damaged_after[after.key] = None
        while len(self._damaged_after) > MOST_DAMAGED:
            del self._damaged_after[next(iter(self._damaged_after))]

    def was_damaged_after(self, keys: Iterable[bytes]) -> bool:
        """True if an entry behind one of these blocks was damaged."""
        return bool(self._damaged_after) and any(key in self._damaged_after for key in keys)

    # ------------------------------------------------------------------------------------ to delete

    def over(self, coming_bytes: int) -> Iterator[Item]:
        """Yield the entries to delete, least recently used first, until `coming_bytes` fit into the
        budget.

        The caller removes each of them.
        """
        for item in list(self._sizes):
            if self.used + coming_bytes <= self.budget_bytes:
                return
            if item not in self.known or not self.known[item].pins:
                yield item

    def remove(self, item: Item) -> None:
        """Queue the deletion of a block or snapshot, if it is on disk."""
        if item in self._sizes:
            self.used -= self._sizes.pop(item)
            self._to_remove[item] = None
            self.on_change()

    def lost(self, item: Item) -> None:
        """Note that a block or snapshot is not on disk any more."""
        self.used -= self._sizes.pop(item, 0)

    def remove_agent(self, agent: Agent) -> list[Item]:
        """Queue the deletion of an agent's record and cancel its write.

        Returns the snapshots and partial blocks that no other record needs.
        """
        self._to_write.pop(agent, None)
        unneeded = self._list(agent.id, frozenset())
        if self.exists:
            self._count_record(agent.id, 0)
            self._to_remove[agent.id] = None
            self.on_change()
        return unneeded

    def next_removal(self) -> Item | str | None:
        """Return the next item or agent to delete, if any; it stays queued until `removed`."""
        return next(iter(self._to_remove), None)

    def removed(self, what: Item | str) -> None:
        """Drop an item or agent from the deletions: it is deleted, or was written again."""
        self._to_remove.pop(what, None)
        self._put_off.pop(what, None)

    def put_off(self, what: Item | str) -> None:
        """Set a deletion that failed aside until `remove_again`."""
        self._put_off[what] = self._to_remove.pop(what)

    def remove_again(self) -> None:
        """Queue the failed deletions again."""
        self._to_remove.update(self._put_off)
        self._put_off.clear()

    @property
    def is_idle(self) -> bool:
        """True if no write or deletion is pending or under way."""
        return not (self._to_write or self._to_remove or self._being_recorded)

    def audit(self) -> None:
        """Assert that the bytes of all files are counted, and none of these files is queued for
        deletion.
        """
        assert self.used == sum(self._sizes.values()) + sum(self._records.values())
        assert not self._to_remove.keys() & (self._sizes.keys() | self._records.keys())
        assert self.known.keys() <= self._sizes.keys()
        assert set(self._listings) == set().union(*self._listed.values())

    # -------------------------------------------------------------------------------------- records

    def recorded(self, agent: Agent, size: int, listed: frozenset[Item]) -> list[Item]:
        """Note that an agent's record is on disk.

        Returns the snapshots and partial blocks that no record needs any more.
        """
        self._count_record(agent.id, size)
        self.removed(agent.id)
        still = self._listed.get(agent.id, frozenset()) if agent in self._to_write else frozenset()
        return self._list(agent.id, listed | still)

    def _count_record(self, agent: str, size: int) -> None:
        more = size - self._records.pop(agent, 0)
        self.used += more
        if size:
            self._records[agent] = size

    def _list(self, agent: str, listed: frozenset[Item]) -> list[Item]:
        before = self._listed.pop(agent, frozenset())
        if listed:
            self._listed[agent] = listed
        self._listings.update(listed)
        self._listings.subtract(before)
        unneeded = [item for item in before if self._listings[item] <= 0]
        for item in unneeded:
            del self._listings[item]
        return unneeded

    def is_to_record(self, agent: Agent) -> bool:
        """True if an agent's record has a pending write or is being written."""
        return agent in self._to_write or self._being_recorded is agent

    def is_to_remove(self, what: Item | str) -> bool:
        """True if the deletion of an item or agent is pending, failed deletions included."""
        return what in self._to_remove or what in self._put_off
