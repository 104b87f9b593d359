"""Marks: what blocks do not hold, kept for chosen positions, within a share of the budget.

Knows rows, positions and ranks. Knows nothing of agents or prompts.
"""

from collections.abc import Set as AbstractSet

import attrs

from semantic_trio.domain.chain import TOKEN_BYTES, mark_key
from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import LayerKind, ModelCacheSpec
from semantic_trio.domain.ledger import Ledger
from semantic_trio.domain.prefix import Block, LiveRow, Mark, marks_between
from semantic_trio.domain.residency import Rank
from semantic_trio.domain.step import MarkKey, SaveMark

# Marks may take this part of the budget: a recurrent state can be as large as the keys and values of 3,000 tokens.
MARKS_SHARE = 0.25


@attrs.define(eq=False)
class Marks:
    """The marks of one model."""

    spec: ModelCacheSpec
    ledger: Ledger
    stored: dict[MarkKey, Mark] = attrs.field(init=False, factory=dict)  # those in RAM
    used: int = attrs.field(init=False, default=0)  # bytes of them

    @property
    def limit_bytes(self) -> int:
        """What they may take."""
        return int(self.ledger.pool.total_bytes * MARKS_SHARE)

    def order(self, row: LiveRow, position: int, *, replaces: bool = False, insists: bool = False) -> SaveMark | None:
        """Order a mark of a row that holds exactly `position` tokens; None where it is not needed, there already, or too large.

        Where it `replaces` the last one the row has set on its way, that goes before anything else from now on. Where it `insists`, what others wait
        for goes too.
        """
        if not self.spec.needs_marks or not position:
            return None
        key, after, packed = marks_between(row, position)
        rank = row.points.get(position, Rank.PLAIN)
        mark = after.marks.get(key)
        if mark is not None and (mark.is_stored or mark.is_coming):
            self.touch(mark, rank)
            return None
        spent = row.passing if replaces else None
        sparing = self._points(row, rank)
        if not self._make_room(self.spec.mark_bytes(position), sparing if insists else sparing | self._awaited, spent):
            return None
        mark = mark or self.add(after, packed)
        self.ledger.allocate(mark)
        self.put_in(mark)
        self.touch(mark, rank)
        if replaces:
            row.passing = mark
        return SaveMark(key, row.number, position)

    def add(self, after: Block, packed: bytes) -> Mark:
        """A mark so many tokens behind a block, whose content is nowhere yet."""
        key = mark_key(after.key, packed)
        mark = after.marks[key] = Mark(key, after, packed, self._is_whole(after.stop + len(packed) // TOKEN_BYTES))
        return mark

    def put_in(self, mark: Mark) -> None:
        """A mark that has its room is in RAM."""
        self.ledger.stored(mark)
        self.stored[mark.key] = mark
        self.used += self.ledger.size(mark)

    def touch(self, mark: Mark, rank: Rank = Rank.PLAIN) -> None:
        """A mark was used."""
        mark.rank = max(mark.rank, rank)
        self.ledger.touch(mark)

    def give_up(self, mark: Mark) -> None:
        """Free the RAM of a mark. One that is not on disk is struck off."""
        self._free(mark)
        if not mark.is_held:
            self.strike_off(mark)

    def strike_off(self, mark: Mark) -> None:
        """Nothing leads to a mark any more."""
        if mark.is_stored:
            self._free(mark)
        del mark.after.marks[mark.key]
        self.ledger.struck_off(mark)

    def make_room_for(self, mark: Mark, *, insists: bool) -> None:
        """Make room for a mark that is to come back. Raises `PoolExhaustedError`, and then nothing was given up."""
        if not self._make_room(self.ledger.size(mark), frozenset() if insists else self._awaited):
            raise PoolExhaustedError(wanted=self.ledger.size(mark), free=self.limit_bytes - self.used, total=self.limit_bytes)

    @property
    def _awaited(self) -> AbstractSet[Mark]:
        return {one for one in self.ledger.awaited if isinstance(one, Mark)}

    def _free(self, mark: Mark) -> None:
        self.used -= self.ledger.size(mark)
        del self.stored[mark.key]
        self.ledger.free(mark, drop=True)

    def _make_room(self, wanted: int, sparing: AbstractSet[Mark] = frozenset(), spent: Mark | None = None) -> bool:
        """Whether there is room for a mark now. Where there is none, nothing was given up.

        What is about to be written to disk does not count against the share of marks: it will soon be where it may go.
        """
        room, idle = self.ledger.room, self.ledger.room.marks
        waiting = idle.held_back.bytes if room.is_disk_open() else 0
        staying = self.used - waiting - idle.share(sparing, held_back=not waiting).bytes
        if staying + wanted > self.limit_bytes or wanted > room.obtainable(sparing, may_lose=True).bytes:
            return False
        if spent is not None:
            self._spend(spent)
        victims = (mark for held_back in (False, True) for mark in idle.victims(held_back=held_back) if mark not in sparing)
        while self.used - waiting + wanted > self.limit_bytes:
            self.give_up(next(victims))
        room.give_up_until(wanted, 0, sparing, may_lose=True)
        return True

    def _spend(self, mark: Mark) -> None:
        if mark in self.ledger.room.marks and mark.rank is Rank.PLAIN:
            mark.rank = Rank.SPENT
            self.ledger.touch(mark)

    def _points(self, row: LiveRow, rank: Rank) -> set[Mark]:
        """The marks of a row's points that are of this rank at least: its other marks do not take their place."""
        keys = [marks_between(row, position)[0] for position in row.points]
        return {self.stored[key] for key in keys if key in self.stored and self.stored[key].rank >= rank}

    def _is_whole(self, position: int) -> bool:
        others = [group for group in self.spec.groups if group.kind is not LayerKind.GLOBAL]
        return all(group.kind is LayerKind.SLIDING and position <= group.window for group in others)
