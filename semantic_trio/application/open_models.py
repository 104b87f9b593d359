"""The models that are open: how one is opened, closed, or makes room for another.

Knows trio, users and the limits on memory. Knows nothing of requests or operators. The caller sees
to it that one model at a time is opened or closed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic

import attrs
import structlog
import trio

from semantic_trio.application.backlog import FIRST_RETRY_SECONDS
from semantic_trio.application.model_entry import (
    Model,
    ModelClose,
    ModelLimits,
    ModelOpener,
    ModelState,
    OpenedStatus,
    RegisteredModel,
)
from semantic_trio.application.served_models import ServedModels
from semantic_trio.domain.errors import (
    DrainingError,
    ModelNotFoundError,
    ModelsBusyError,
    SemanticError,
)
from semantic_trio.domain.observation import ModelUnloaded, UnloadCause
from semantic_trio.ports.observing import Observer

log = structlog.get_logger(__name__)

MIB = 1 << 20
# Seconds until a request that is refused for want of memory may be sent again.
RETRY_SECONDS = 5
# Seconds that requests of a model have to end after their generations have failed.
END_SECONDS = 5.0


@attrs.define(eq=False)
class OpenModels(Generic[Model]):
    """Opens and closes the models of one server within its limits."""

    opener: ModelOpener[Model]
    models: ServedModels[Model]
    limits: ModelLimits
    observer: Observer  # of models that are unloaded
    # held by the caller while a model is opened or closed
    lock: trio.Lock = attrs.field(init=False, factory=trio.Lock)

    async def open(self, entry: RegisteredModel[Model], nursery: trio.Nursery) -> None:
        """Open a model, and serve it in a task of the nursery.

        Raises a `SemanticError` for all that opening it raises: the model has failed, and the
        others go on.
        """
        entry.state, entry.closing, entry.closed = ModelState.LOADING, ModelClose(), trio.Event()
        try:
            with _named_faults(entry.name):
                await nursery.start(self._serve, entry)
        except SemanticError as failure:
            entry.state, entry.failure = ModelState.FAILED, str(failure)
            log.error("a model cannot be opened", model=entry.name, reason=str(failure))
            raise
        self.models.note_use(entry)
        log.info("a model is open", model=entry.name, bytes=entry.bytes)

    async def _serve(
        self, entry: RegisteredModel[Model], *, task_status: trio.TaskStatus[None]
    ) -> None:
        def adopt(model: Model) -> None:
            self.models.names.add(entry.name)
            self.models.adopt(entry.name, model)
            task_status.started()

        try:
            await self.opener.serve(entry.name, entry.closing, task_status=OpenedStatus(adopt))
        finally:
            entry.closed.set()

    async def close_others(self, wanted: RegisteredModel[Model]) -> None:
        """Close models, least recently used first, until the wanted one fits.

        Raises as `needed` does, and `ModelsBusyError`.
        """
        needed = await self.needed(wanted.name) if self.limits.budget_bytes else 0
        while not self._fits(needed):
            await self._vacate(
                min(self.models.open_entries, key=lambda entry: (not entry.is_idle, entry.used)),
                wanted,
            )

    async def needed(self, name: str) -> int:
        """Return the bytes that a model will take.

        Raises `ModelNotFoundError` where there is none, or they never can be had; a `SemanticError`
        for all else that looking raises: the open models go on.
        """
        with _named_faults(name):
            needed = await self.opener.needed_bytes(name)
        budget = self.limits.budget_bytes
        if needed > budget > 0:
            raise ModelNotFoundError(
                name,
                (
                    f"it takes {needed / MIB:,.0f} MiB with its cache, and models_budget_mb is "
                    f"{budget / MIB:,.0f}"
                ),
            )
        return needed

    def _fits(self, needed: int) -> bool:
        most = self.limits.max_models
        return (not most or len(self.models.open_entries) < most) and self.has_bytes(needed)

    def has_bytes(self, needed: int) -> bool:
        """True if so many bytes fit into the budget beside the models that are open."""
        held = sum(entry.bytes for entry in self.models.open_entries)
        return not self.limits.budget_bytes or held + needed <= self.limits.budget_bytes

    async def _vacate(self, entry: RegisteredModel[Model], wanted: RegisteredModel[Model]) -> None:
        """Close a model for another one when its requests are over.

        Raises `ModelsBusyError` if they are not in time: then it is served on.
        """
        # requests that it was opened for are served first
        while entry.waiting and entry.opening is None:
            await self.models.next_change()
        entry.state = ModelState.UNLOADING
        if not await self.models.without_users(entry, self.limits.grace_seconds):
            entry.state = ModelState.READY
            if entry.opening is not None:
                entry.end_opening(entry.opening)
            raise ModelsBusyError(wanted.name, entry.name, entry.users, RETRY_SECONDS)
        await self.close(entry, "memory")

    async def close(self, entry: RegisteredModel[Model], cause: UnloadCause) -> int:
        """Close an open model: new requests wait, open ones end or fail after the grace.

        Returns the bytes that are free again.
        """
        assert entry.model is not None, "an open model is closed"
        entry.state, began = ModelState.UNLOADING, trio.current_time()
        freed = entry.model.bytes
        if not await self.models.without_users(entry, self.limits.grace_seconds):
            await entry.model.drain(
                0, DrainingError(FIRST_RETRY_SECONDS, f"{entry.name} is being unloaded")
            )
            await self.models.without_users(entry, END_SECONDS)
        entry.model = None  # the last reference is that of the task which serves it
        entry.closing.begin(trio.current_time() + self.limits.grace_seconds)
        await entry.closed.wait()
        entry.state = ModelState.ABSENT
        self.models.note_change()
        log.info("a model is closed", model=entry.name, bytes=freed, cause=cause)
        self.observer.observe(
            ModelUnloaded(
                model=entry.name, cause=cause, size_bytes=freed, seconds=trio.current_time() - began
            )
        )
        return freed

    async def close_idle(self) -> None:
        """Close models that no request has used for a while, until cancelled; takes the lock."""
        while True:
            until = min(
                (self._due(entry) for entry in self.models.open_entries if entry.is_idle),
                default=math.inf,
            )
            if until > trio.current_time():
                with trio.move_on_at(until):
                    await self.models.next_change()
                continue
            async with self.lock:
                while overdue := [
                    entry for entry in self.models.open_entries if self._is_overdue(entry)
                ]:
                    await self.close(overdue[0], "idle")

    def _is_overdue(self, entry: RegisteredModel[Model]) -> bool:
        return entry.is_idle and trio.current_time() >= self._due(entry)

    def _due(self, entry: RegisteredModel[Model]) -> float:
        """Time on trio's clock from which on an idle model is to be closed; infinity: never."""
        return entry.idle_since + self.limits.idle_after(entry.name)


@contextmanager
def _named_faults(name: str) -> Iterator[None]:
    """Raise a `SemanticError` for all that looking for a model or opening it raises."""
    try:
        yield
    except SemanticError:
        raise
    except Exception as error:
        cause = _cause(error)
        if isinstance(cause, SemanticError):
            raise cause from error
        log.exception("opening a model has failed", model=name)
        raise ModelNotFoundError(
            name, f"it cannot be loaded: {type(cause).__name__}: {cause}"
        ) from error


def _cause(error: BaseException) -> BaseException:
    """Return the first fault of a group; of a fault alone, itself.

    The others in the group follow from it: all of them ended one opening.
    """
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
