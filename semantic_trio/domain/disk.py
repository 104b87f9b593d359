"""What one model has on disk, and what is to be written, read and deleted there.

Knows names, sizes and the order of use, which is counted and not timed. Knows nothing of files: it orders, and is told what came of it.
"""

import collections
from collections.abc import Callable, Container, Iterable, Iterator

import attrs

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.entries import Block, CacheEntry, Snapshot

# Why something damaged was lost is remembered this long, in things damaged.
MOST_DAMAGED = 10_000


def _nobody() -> None:
    pass


@attrs.define(eq=False)
class Disk:
    """The disk tier of one model's memory. With a budget of 0 there is none, and nothing is ever to be done."""

    budget_bytes: int = 0
    told: Callable[[], None] = _nobody  # there is something to do
    is_open: bool = True  # what is to be written can be; where not, it may be given up
    is_stuck: bool = attrs.field(init=False, default=False)  # what is to be read does not come
    is_sparing: bool = attrs.field(init=False, default=False)  # only what an ended turn needs to go on later is to be written
    used: int = attrs.field(init=False, default=0)  # bytes, those of agents' records included
    reading: set[CacheEntry] = attrs.field(init=False, factory=set)  # on their way from disk, wanted still or not
    known: dict[Item, CacheEntry] = attrs.field(init=False, factory=dict)  # those on disk that somebody has asked for or listed
    _sizes: collections.OrderedDict[Item, int] = attrs.field(init=False, factory=collections.OrderedDict)  # least recently used first
    _records: dict[str, int] = attrs.field(init=False, factory=dict)  # bytes of agents' records
    _listed: dict[str, frozenset[Item]] = attrs.field(init=False, factory=dict)  # snapshots and tails an agent's record needs
    _listings: collections.Counter[Item] = attrs.field(init=False, factory=collections.Counter)
    _to_write: dict[CacheEntry | Agent, None] = attrs.field(init=False, factory=dict)  # in order
    _being_recorded: Agent | None = attrs.field(init=False, default=None)
    _to_read: dict[CacheEntry, None] = attrs.field(init=False, factory=dict)
    _to_remove: dict[Item | str, None] = attrs.field(init=False, factory=dict)  # a string is an agent's id
    _put_off: dict[Item | str, None] = attrs.field(init=False, factory=dict)  # could not be deleted
    _damaged_after: dict[bytes, None] = attrs.field(init=False, factory=dict)  # blocks after which something was

    @property
    def exists(self) -> bool:
        """Whether there is a disk tier."""
        return self.budget_bytes > 0

    @property
    def is_empty(self) -> bool:
        """Whether nothing is there."""
        return not self._sizes

    def __contains__(self, item: Item) -> bool:
        return item in self._sizes

    def size(self, item: Item) -> int:
        """Bytes on disk; 0 of what is not there."""
        return self._sizes.get(item, 0)

    def has_block(self, key: bytes) -> bool:
        """Whether a block is on disk."""
        return Item(Kind.BLOCK, key) in self._sizes

    def touch(self, item: Item) -> None:
        """It was used."""
        if item in self._sizes:
            self._sizes.move_to_end(item)

    # ----------------------------------------------------------------------------------------------------------------- to write

    def write(self, one: CacheEntry | Agent, listed: frozenset[Item] = frozenset()) -> None:
        """Have something written: an agent's record after all that was ordered before. What it will have `listed` is needed from now on."""
        if isinstance(one, Agent):
            self._to_write.pop(one, None)
            self._list(one.id, self._listed.get(one.id, frozenset()) | listed)
        self._to_write[one] = None
        self.told()

    def is_to_write(self, one: CacheEntry | Agent) -> bool:
        """Whether it waits to be written."""
        return one in self._to_write

    def forget_write(self, one: CacheEntry | Agent) -> None:
        """It need not be written any more."""
        self._to_write.pop(one, None)

    @property
    def makes_room(self) -> bool:
        """Whether RAM will be had when what is to be written is."""
        return self.is_open and any(isinstance(one, CacheEntry) for one in self._to_write)

    @property
    def waiting(self) -> int:
        """Things to be written, or being."""
        return len(self._to_write) + (self._being_recorded is not None)

    def next_record(self) -> Agent | None:
        """The agent whose record is the next thing to be written, if it is one."""
        first = next(iter(self._to_write), None)
        return first if isinstance(first, Agent) else None

    def begin_record(self, agent: Agent) -> None:
        """What an agent's record says is settled: what comes now is for the next one."""
        del self._to_write[agent]
        self._being_recorded = agent

    def end_record(self, *, is_written: bool) -> None:
        """The record is written; or it is to be, once more."""
        agent, self._being_recorded = self._being_recorded, None
        if agent is not None and agent.is_listed and not is_written:
            self.write(agent)

    def next_writes(self, limit_bytes: int, size: Callable[[CacheEntry], int]) -> list[CacheEntry]:
        """Return the next blocks and snapshots to write, at least one, then up to `limit_bytes`; none if a record is next. They stay queued."""
        chosen: list[CacheEntry] = []
        for one in self._to_write:
            if isinstance(one, Agent) or (chosen and size(one) > limit_bytes):
                break
            chosen.append(one)
            limit_bytes -= size(one)
        return chosen

    def added(self, item: Item, size: int) -> None:
        """A block or snapshot is on disk now, and was used last."""
        self.removed(item)
        self.used += size - self._sizes.pop(item, 0)
        self._sizes[item] = size

    def missing(self, there: Container[Item]) -> list[Item]:
        """The blocks and snapshots that are not where they were written."""
        return [item for item in self._sizes if item not in there]

    # ------------------------------------------------------------------------------------------------------------------ to read

    def read(self, kept: Iterable[CacheEntry]) -> None:
        """Have blocks and snapshots brought back, in this order."""
        for one in kept:
            if one not in self.reading:  # else it was called off, and is on its way still
                self._to_read[one] = None
                self.reading.add(one)
        self.told()

    def take_reads(self) -> list[CacheEntry]:
        """What is to be read, told once."""
        wanted, self._to_read = list(self._to_read), {}
        return wanted

    @property
    def coming_keys(self) -> set[bytes]:
        """Names of what is on its way: the device may have it already."""
        return {kept.key for kept in self.reading}

    def damaged(self, kept: CacheEntry) -> None:
        """Something could not be read: turns that would have gone on from there are told so."""
        after = kept.after if isinstance(kept, Snapshot) else kept.parent if isinstance(kept, Block) else None
        assert after is not None, "the root is never read"
        self._damaged_after[after.key] = None
        while len(self._damaged_after) > MOST_DAMAGED:
            del self._damaged_after[next(iter(self._damaged_after))]

    def was_damaged_after(self, keys: Iterable[bytes]) -> bool:
        """Whether something behind one of these blocks was found damaged."""
        return bool(self._damaged_after) and any(key in self._damaged_after for key in keys)

    # ---------------------------------------------------------------------------------------------------------------- to delete

    def over(self, coming_bytes: int) -> Iterator[Item]:
        """What has to go, least recently used first, for so many bytes to fit into the budget. Whoever takes one removes it."""
        for item in list(self._sizes):
            if self.used + coming_bytes <= self.budget_bytes:
                return
            if item not in self.known or not self.known[item].pins:
                yield item

    def remove(self, item: Item) -> None:
        """Have a block or snapshot deleted."""
        if item in self._sizes:
            self.used -= self._sizes.pop(item)
            self._to_remove[item] = None
            self.told()

    def lost(self, item: Item) -> None:
        """It is not there any more."""
        self.used -= self._sizes.pop(item, 0)

    def remove_agent(self, agent: Agent) -> list[Item]:
        """Have an agent's record deleted, if it has one or is about to. Returns the snapshots and tails no other record needs."""
        self._to_write.pop(agent, None)
        unneeded = self._list(agent.id, frozenset())
        if self.exists:
            self._count_record(agent.id, 0)
            self._to_remove[agent.id] = None
            self.told()
        return unneeded

    def next_removal(self) -> Item | str | None:
        """The next thing to delete; it goes on waiting until it was `removed`."""
        return next(iter(self._to_remove), None)

    def removed(self, what: Item | str) -> None:
        """It is deleted, or there again."""
        self._to_remove.pop(what, None)
        self._put_off.pop(what, None)

    def put_off(self, what: Item | str) -> None:
        """It cannot be deleted now."""
        self._put_off[what] = self._to_remove.pop(what)

    def remove_again(self) -> None:
        """What could not be deleted may be now."""
        self._to_remove.update(self._put_off)
        self._put_off.clear()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written or deleted, or is being."""
        return not (self._to_write or self._to_remove or self._being_recorded)

    def audit(self) -> None:
        """Assert that what is there is counted, and nothing of it is to be deleted."""
        assert self.used == sum(self._sizes.values()) + sum(self._records.values())
        assert not self._to_remove.keys() & (self._sizes.keys() | self._records.keys())
        assert self.known.keys() <= self._sizes.keys()
        assert set(self._listings) == set().union(*self._listed.values())

    # ------------------------------------------------------------------------------------------------------------------ records

    def recorded(self, agent: Agent, size: int, listed: frozenset[Item]) -> list[Item]:
        """An agent's record is on disk. Returns the snapshots and tails that no record needs any more."""
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
        """Whether an agent's record waits to be written, or is being."""
        return agent in self._to_write or self._being_recorded is agent

    def is_to_remove(self, what: Item | str) -> bool:
        """Whether it waits to be deleted, or is being."""
        return what in self._to_remove or what in self._put_off
