"""The model on its device, as the engine uses it."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from semantic_trio.domain.content import Content, Item
from semantic_trio.domain.embedding import Pooling
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.step import (
    BlockKey,
    Inventory,
    PassSizes,
    SaveBlock,
    StepPlan,
    StepResult,
)


class ModelRunner(Protocol):
    """Computes steps, and keeps blocks and snapshots between rows.

    One step runs at a time; every row has a cache of its own, which a close gives back.
    """

    @property
    def spec(self) -> ModelCacheSpec:
        """Geometry of the model's caches."""

    @property
    def layout(self) -> str:
        """Name of the way in which rows go through the model together, for people."""

    @property
    def sizes(self) -> PassSizes:
        """Sizes of passes that the model is fast with on its device."""

    async def step(self, plan: StepPlan) -> StepResult:
        """Close rows, drop, open rows, start one forward pass, take snapshots.

        Returns what has been drawn since the last answer; with `in_flight` set the tokens of this
        very plan come with the next answer (a plan without work collects them). A plan with drafts
        is answered at once, for what comes next depends on how many are accepted: of its tokens,
        those that were sampled behind accepted drafts are returned, and what was read beyond them
        is taken out of the rows. A running step is not interrupted by cancellation: its tokens are
        lost to a caller that was. A key that is saved again replaces what was kept under it. Raises
        `StepFailedError` when the device does, and then every row is in doubt until `reset`; stored
        blocks and snapshots are not.
        """

    async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
        """Drop every row and whatever is in flight; the model and what is stored stay.

        Saves what can still be read of `keep` first, and returns the keys of that. Raises
        `StepFailedError` when the device does.
        """

    async def inventory(self) -> Inventory:
        """Return what the device holds. Raises `StepFailedError` if the device raises."""

    async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
        """The content of those of these blocks and snapshots that are stored, to be read by any
        thread.

        It stays as it is whatever becomes of the originals. Raises `StepFailedError` when the
        device does.
        """

    @property
    def embedding_size(self) -> int:
        """Numbers in the vector of a text; 0 for a model that makes none."""

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[tuple[float, ...]]:
        """Return the vectors of texts, of length 1.

        Steps may run in between; rows and stores are not touched.

        Raises `StepFailedError` when the device does.
        """

    async def load(self, items: Mapping[Item, Content]) -> None:
        """Store blocks and snapshots. What is stored under the same key is replaced.

        Raises `CacheCorruptionError`, with nothing stored, for content that is none of this
        model's; `StepFailedError` when the device raises.
        """
