"""The order in which blocks and snapshots are evicted.

Knows names, ranks and the order of use; that order is counted, not timed. Evicts nothing itself.
"""

import collections
import enum
from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

import attrs

Name = TypeVar("Name", bound=Hashable)


class Rank(enum.IntEnum):
    """Entries of a lower rank are evicted first.

    A client's cache breakpoint raises the rank of what is before it.
    """

    SPENT = -1  # a snapshot whose row has taken a later one in its place
    PLAIN = 0
    MARKED = 1  # a breakpoint of minutes
    LONG = 2  # a breakpoint of an hour


@attrs.define
class Share:
    """An amount of memory."""

    bytes: int = 0
    count: int = 0


@attrs.define
class EvictionQueue(Generic[Name]):
    """Names that may be evicted, least recently used first within each rank.

    Names that are held back keep their place in the order and are counted apart: their content is
    nowhere else yet, and would be lost.
    """

    offered: "Share" = attrs.field(init=False, factory=lambda: Share())
    held_back: "Share" = attrs.field(init=False, factory=lambda: Share())
    _order: dict[Rank, collections.OrderedDict[Name, int]] = attrs.field(init=False)
    _rank: dict[Name, Rank] = attrs.field(init=False, factory=dict)
    _held_back: set[Name] = attrs.field(init=False, factory=set)

    def __attrs_post_init__(self) -> None:
        self._order = {rank: collections.OrderedDict() for rank in Rank}

    def __len__(self) -> int:
        return len(self._rank)

    def __contains__(self, name: object) -> bool:
        return name in self._rank

    def size(self, name: Name) -> int:
        """Bytes that evicting a name would free; 0 of a name that is not in the queue."""
        rank = self._rank.get(name)
        return 0 if rank is None else self._order[rank][name]

    def touch(self, name: Name, size: int, rank: Rank = Rank.PLAIN) -> None:
        """Put a name of so many bytes at the end of the queue of a rank."""
        self.forget(name)
        self._rank[name] = rank
        self._order[rank][name] = size
        self._count(name, size)

    def forget(self, name: Name) -> None:
        """Take a name out of the queue."""
        if name in self:
            self._taken_out(name)
            del self._order[self._rank.pop(name)][name]

    def hold_back(self, name: Name) -> None:
        """Count a name as one that would be lost, now or when it is put into the queue, until it is
        let go.
        """
        size = self._taken_out(name)
        self._held_back.add(name)
        self._count(name, size)

    def let_go(self, name: Name) -> None:
        """Count a name as one that is not lost."""
        size = self._taken_out(name)
        self._held_back.discard(name)
        self._count(name, size)

    def share(self, sparing: AbstractSet[object], *, held_back: bool) -> Share:
        """Memory that evicting all names but `sparing` would free, with those held back where
        `held_back`.
        """
        bytes_, count = self.offered.bytes, self.offered.count
        if held_back:
            bytes_, count = bytes_ + self.held_back.bytes, count + self.held_back.count
        spared = [name for name in self._among(sparing) if held_back or name not in self._held_back]
        return Share(bytes_ - sum(self.size(name) for name in spared), count - len(spared))

    def of_rank(self, rank: Rank, *, held_back: bool = False) -> list[Name]:
        """Names of a rank in the order they should be evicted: those not held back, or instead
        those that are.
        """
        return [name for name in self._order[rank] if (name in self._held_back) == held_back]

    def victims(self, *, held_back: bool = False) -> Iterator[Name]:
        """All names in the order they should be evicted, or instead those held back.

        One that is taken out meanwhile may still be yielded.
        """
        for rank in Rank:
            yield from self.of_rank(rank, held_back=held_back)

    def _among(self, some: AbstractSet[object]) -> list[Name]:
        return [name for name in some if name in self._rank]

    def _taken_out(self, name: Name) -> int | None:
        """Bytes of a name that is not counted any more; None of a name that is not in the queue."""
        size = self.size(name) if name in self else None
        if size is not None:
            self._share(name).bytes -= size
            self._share(name).count -= 1
        return size

    def _count(self, name: Name, size: int | None) -> None:
        if size is not None:
            self._share(name).bytes += size
            self._share(name).count += 1

    def _share(self, name: Name) -> Share:
        return self.held_back if name in self._held_back else self.offered
