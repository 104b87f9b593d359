"""In which order what nobody reads is given up.

Knows names, ranks and the order of use; that order is counted, not timed. Decides and does nothing itself.
"""

import collections
import enum
from collections.abc import Hashable, Iterator
from collections.abc import Set as AbstractSet
from typing import Generic, TypeVar

import attrs

Name = TypeVar("Name", bound=Hashable)


class Rank(enum.IntEnum):
    """What goes first. A client's cache breakpoint raises the rank of what is before it."""

    SPENT = -1  # a mark whose row has set a later one in its place
    PLAIN = 0
    MARKED = 1  # a breakpoint of minutes
    LONG = 2  # a breakpoint of an hour


@attrs.define
class Share:
    """How much something is."""

    bytes: int = 0
    count: int = 0


@attrs.define
class Residency(Generic[Name]):
    """Names that could be given up, least recently used first within each rank.

    Those that are held back keep their place in the order and are not offered: giving them up would lose what is nowhere else yet.
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
        """Bytes that giving a name up would free; 0 when it is not to be had."""
        rank = self._rank.get(name)
        return 0 if rank is None else self._order[rank][name]

    def touch(self, name: Name, size: int, rank: Rank = Rank.PLAIN) -> None:
        """A name of so many bytes was used now, and is of this rank from now on."""
        self.forget(name)
        self._rank[name] = rank
        self._order[rank][name] = size
        self._count(name, size)

    def forget(self, name: Name) -> None:
        """A name is in use, or gone."""
        if name in self:
            self._taken_out(name)
            del self._order[self._rank.pop(name)][name]

    def hold_back(self, name: Name) -> None:
        """Do not offer a name, now or when it comes, until it is let go."""
        size = self._taken_out(name)
        self._held_back.add(name)
        self._count(name, size)

    def let_go(self, name: Name) -> None:
        """Offer a name again."""
        size = self._taken_out(name)
        self._held_back.discard(name)
        self._count(name, size)

    def share(self, sparing: AbstractSet[object], *, held_back: bool) -> Share:
        """How much could go: all but `sparing`, with those held back where they may go too."""
        bytes_, count = self.offered.bytes, self.offered.count
        if held_back:
            bytes_, count = bytes_ + self.held_back.bytes, count + self.held_back.count
        spared = [name for name in self._among(sparing) if held_back or name not in self._held_back]
        return Share(bytes_ - sum(self.size(name) for name in spared), count - len(spared))

    def of_rank(self, rank: Rank, *, held_back: bool = False) -> list[Name]:
        """The names of a rank in the order they should go; or instead those held back."""
        return [name for name in self._order[rank] if (name in self._held_back) == held_back]

    def victims(self, *, held_back: bool = False) -> Iterator[Name]:
        """All names in the order they should go; or instead those held back. What is forgotten meanwhile may still come."""
        for rank in Rank:
            yield from self.of_rank(rank, held_back=held_back)

    def _among(self, some: AbstractSet[object]) -> list[Name]:
        return [name for name in some if name in self._rank]

    def _taken_out(self, name: Name) -> int | None:
        """Bytes of a name that is counted no more; None of one that never was."""
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
