"""Models that answer nothing, opened and closed on virtual time."""

from collections.abc import Mapping

import attrs
import trio

from semantic_trio.application.model_entry import ModelClose
from semantic_trio.domain.errors import DrainingError, ModelNotFoundError
from semantic_trio.domain.model_card import ModelCard


@attrs.define(eq=False)
class FakeModel:
    """A `Resident` that notes its drains."""

    name: str
    bytes: int
    failed_with: DrainingError | None = attrs.field(init=False, default=None)
    drained: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def card(self) -> ModelCard:
        """See `Resident.card`."""
        return ModelCard(self.name, self.name, 4096, 0)

    async def drain(self, grace_seconds: float, error: DrainingError | None = None) -> None:
        """See `Resident.drain`."""
        await trio.sleep(grace_seconds)
        self.failed_with = error
        self.drained.set()


@attrs.define(eq=False)
class FakeOpener:
    """A `ModelOpener` of the models in `sizes`, whose opening and closing take time."""

    sizes: Mapping[str, int]
    open_seconds: float = 1.0
    close_seconds: float = 0.5
    failing: set[str] = attrs.field(factory=set)  # found, and cannot be opened
    # seconds on trio's clock, what has happened
    events: list[tuple[float, str]] = attrs.field(init=False, factory=list)
    open_bytes: int = attrs.field(init=False, default=0)
    most_bytes: int = attrs.field(init=False, default=0)  # that were open at the same time

    async def needed_bytes(self, name: str) -> int:
        """See `ModelOpener.needed_bytes`."""
        await trio.lowlevel.checkpoint()
        if name not in self.sizes:
            raise ModelNotFoundError(name, "not on this machine")
        return self.sizes[name]

    async def serve(
        self,
        name: str,
        closing: ModelClose,
        *,
        task_status: trio.TaskStatus[FakeModel] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `ModelOpener.serve`."""
        size = await self.needed_bytes(name)
        await trio.sleep(self.open_seconds)
        if name in self.failing:
            raise ModelNotFoundError(name, "its weights are damaged")
        self._note(f"{name} opened", size)
        task_status.started(FakeModel(name, size))
        await closing.wait()
        await trio.sleep(self.close_seconds)
        self._note(f"{name} closed", -size)

    def _note(self, event: str, size: int) -> None:
        self.events.append((trio.current_time(), event))
        self.open_bytes += size
        self.most_bytes = max(self.most_bytes, self.open_bytes)
