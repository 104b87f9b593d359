"""In which order what nobody reads is given up.

Knows names, ranks and the order of use; that order is counted, not timed. Decides and does nothing itself.
"""

import collections
import enum
from collections.abc import Hashable, Iterator
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
class Residency(Generic[Name]):
    """Names that could be given up, least recently used first within each rank."""

    bytes: int = attrs.field(init=False, default=0)  # of all of them
    _order: dict[Rank, collections.OrderedDict[Name, int]] = attrs.field(init=False)
    _rank: dict[Name, Rank] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._order = {rank: collections.OrderedDict() for rank in Rank}

    def __len__(self) -> int:
        return len(self._rank)

    def __contains__(self, name: Name) -> bool:
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
        self.bytes += size

    def forget(self, name: Name) -> None:
        """A name is in use, or gone."""
        rank = self._rank.pop(name, None)
        if rank is not None:
            self.bytes -= self._order[rank].pop(name)

    def of_rank(self, rank: Rank) -> list[Name]:
        """The names of a rank in the order they should go."""
        return list(self._order[rank])

    def victims(self) -> Iterator[Name]:
        """All names in the order they should go. What is forgotten meanwhile may still come."""
        for rank in Rank:
            yield from self.of_rank(rank)
