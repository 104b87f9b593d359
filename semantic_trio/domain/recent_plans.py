"""Recent plans: those whose passes may not be over when a step fails.

The device looks one step ahead, so a failure may concern the last two plans. Knows what each plan
had its rows read, close and store.
"""

import collections
from collections.abc import Collection, Mapping

import attrs

from semantic_trio.domain.step import RowClose, SnapshotKey, StepPlan


@attrs.frozen
class _Planned:
    """A plan that was returned: tokens its rows had read before, and the snapshots and closings in
    it.
    """

    read: dict[int, int]
    snapshots: tuple[SnapshotKey, ...]
    closings: tuple[RowClose, ...]


@attrs.define(eq=False)
class RecentPlans:
    """The last two plans."""

    # the pass of the last plan was started, and its tokens are still to come
    is_in_flight: bool = attrs.field(init=False, default=False)
    _plans: collections.deque[_Planned] = attrs.field(
        init=False, factory=lambda: collections.deque(maxlen=2)
    )

    def add(self, plan: StepPlan, read: Mapping[int, int]) -> None:
        """Note a plan that is returned, and the tokens that its rows had `read` before it."""
        took_part = {row: read[row] for row in plan.rows}
        self._plans.append(
            _Planned(took_part, tuple(snapshot.key for snapshot in plan.snapshots), plan.close)
        )

    def clear(self) -> None:
        """Forget all plans: the device has failed."""
        self._plans.clear()
        self.is_in_flight = False

    @property
    def rows_in_flight(self) -> Collection[int]:
        """Rows in the pass that is under way."""
        return self._plans[-1].read if self.is_in_flight else ()

    @property
    def rows(self) -> frozenset[int]:
        """Rows that took part in these plans."""
        return frozenset[int]().union(*(plan.read for plan in self._plans))

    @property
    def snapshots(self) -> set[SnapshotKey]:
        """Snapshots of these plans, which the device may not have stored."""
        return {key for plan in self._plans for key in plan.snapshots}

    @property
    def closings(self) -> list[RowClose]:
        """Closings of these plans."""
        return [closing for plan in self._plans for closing in plan.closings]

    def read_before(self, read: Mapping[int, int]) -> dict[int, int]:
        """Return the tokens that rows had read before the first of these plans: that pass may have
        failed.

        `read`: tokens of all rows now.
        """
        before = dict(read)
        for plan in reversed(self._plans):
            before |= {row: count for row, count in plan.read.items() if row in read}
        return before
