"""The registry of models: what requests and operators ask of them.

Knows trio, names and users. Knows nothing of how a model is opened or closed, or what it answers.
One model at a time is opened or closed; requests for one that is not open wait, and the others are
served meanwhile.
"""

import contextvars
import functools
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Generic, TypeVar

import attrs
import trio

from semantic_trio.application.acquisition import Acquisition
from semantic_trio.application.backlog import FIRST_RETRY_SECONDS
from semantic_trio.application.model_entry import (
    Changed,
    Lookups,
    Model,
    ModelLimits,
    ModelOpener,
    ModelState,
    Opening,
    RegisteredModel,
)
from semantic_trio.application.model_swaps import ModelSwaps
from semantic_trio.application.observers import Observers
from semantic_trio.application.open_models import OpenModels
from semantic_trio.application.served_models import ServedModels
from semantic_trio.domain.errors import DrainingError, SemanticError
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.ports.observing import Observer

Result = TypeVar("Result")


@attrs.define(eq=False)
class ModelRegistry(Generic[Model]):
    """The models of one server.

    `run` lasts as long as there are models; `drain` and then `close` end them.
    """

    opener: ModelOpener[Model]
    names: ModelNames
    limits: ModelLimits = attrs.field(factory=ModelLimits)
    observer: Observer = attrs.field(factory=Observers)  # of models that are unloaded or swapped
    lookups: Lookups = attrs.field(factory=Lookups)
    models: ServedModels[Model] = attrs.field(init=False)
    _open: OpenModels[Model] = attrs.field(init=False)
    _swaps: ModelSwaps[Model] = attrs.field(init=False)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    _is_closed: bool = attrs.field(init=False, default=False)

    def __attrs_post_init__(self) -> None:
        self.models = ServedModels(self.names)
        self._open = OpenModels(self.opener, self.models, self.limits, self.observer)
        self._swaps = ModelSwaps(self.models, self._open, self.observer)

    @property
    def exceeds_budget(self) -> bool:
        """True if the open models, with adapters that they have loaded since, take more than
        `models_budget_mb`.
        """
        return not self._open.has_bytes(0)

    async def acquire(self, name: str, stack: ExitStack) -> Model:
        """Return the model of a name or alias, open until the stack is closed; open it first where
        it is not.

        Raises `ModelNotFoundError`, `ModelsBusyError`, `DrainingError`, and what opening it raises.
        """
        if self.is_open(name):
            self.lookups.hits += 1
        else:
            self.lookups.misses += 1
        while True:
            self._refuse_when_closed()
            if self._swaps.concerns(name):
                await self.models.next_change()
                continue
            entry = self.models.entry(self.names.resolve(name))
            if entry.state is ModelState.READY and entry.model is not None:
                self.models.hold(entry.model, stack)
                return entry.model
            await self._opened(entry)

    def is_open(self, name: str) -> bool:
        """True if `acquire` returns the model of the name without waiting.

        Raises `ModelNotFoundError` and `DrainingError`.
        """
        self._refuse_when_closed()
        return (
            not self._swaps.concerns(name)
            and self.models.entry(self.names.resolve(name)).state is ModelState.READY
        )

    def acquisition(self, name: str, stack: ExitStack) -> Acquisition[Model]:
        """Begin to acquire the model of a name; the model is open, or waited for, until the stack
        is closed.
        """
        acquisition: Acquisition[Model] = Acquisition()
        stack.callback(acquisition.leave)
        self._start(acquisition.run, functools.partial(self.acquire, name))
        return acquisition

    async def load(self, name: str) -> Changed:
        """Open a model, and serve it from now on. Raises as `acquire` does."""
        self._refuse_when_closed()
        began = trio.current_time()
        entry = self.models.entry(self.names.own(name))
        if entry.state is ModelState.READY:
            return Changed(entry.name, 0.0, 0)
        await self._opened(entry, is_new=True)
        return Changed(entry.name, trio.current_time() - began, entry.bytes)

    async def unload(self, name: str) -> Changed:
        """Close a model: its requests end, or fail after the grace. Raises `ModelNotFoundError`."""
        entry = self.models.entry(self.names.resolve(name))
        return await self._apart(lambda: self._unload(entry))

    async def swap(self, name: str) -> Changed:
        """Make a model the main one: close the one that was, and open this one.

        Requests for the main model wait meanwhile.

        Raises `ModelNotFoundError` where there is no such model, and nothing has changed;
        `ModelSwapError` where it cannot be opened, and the model from before is the main one again.
        """
        return await self._apart(lambda: self._swaps.swap(self.names.own(name), self._tasks))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all models until cancelled. Raises what ends the process."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._open.close_idle()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, and return when those of all models are over or have failed."""
        self._is_closed = True
        self.models.note_change()  # requests that wait for a swap are refused too
        for entry in self.models.known:
            if entry.opening is not None:
                entry.opening.error = DrainingError(FIRST_RETRY_SECONDS)
                entry.opening.over.set()
        async with trio.open_nursery() as nursery:
            for model in self.models.residents:
                nursery.start_soon(model.drain, grace_seconds)

    async def close(self, flush_until: float) -> None:
        """Close all models: their memory is on disk when this returns, if there was time for it."""
        open_entries = [
            entry
            for entry in self.models.known
            if entry.state in {ModelState.READY, ModelState.UNLOADING}
        ]
        for entry in open_entries:
            entry.closing.begin(flush_until)
        for entry in open_entries:
            await entry.closed.wait()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise DrainingError(FIRST_RETRY_SECONDS)

    # -------------------------------------------------------------------------------------- opening

    async def _opened(self, entry: RegisteredModel[Model], *, is_new: bool = False) -> None:
        """Return when the model has been opened once, whatever has become of it since.

        Raises what opening it has raised.
        """
        if entry.opening is None:
            entry.opening = Opening()
            self._start(self._open_for_requests, entry, entry.opening, is_new)
        opening = entry.opening
        entry.waiting += 1
        try:
            await opening.over.wait()
        finally:
            entry.waiting -= 1
            self.models.note_change()
        if opening.error is not None:
            raise opening.error

    def _start(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Start a task that outlives the request which needs it, and so has nothing of its
        context.
        """
        contextvars.Context().run(self._tasks.start_soon, task, *arguments)

    @property
    def _tasks(self) -> trio.Nursery:
        """The nursery of the models that are open, or are being opened or closed."""
        assert self._nursery is not None, "models are opened and closed while the registry runs"
        return self._nursery

    async def _open_for_requests(
        self, entry: RegisteredModel[Model], opening: Opening, is_new: bool
    ) -> None:
        try:
            async with self._open.lock:
                if entry.state is not ModelState.READY and (
                    is_new or entry.name in self.names.served
                ):
                    await self._open.close_others(entry)
                    await self._open.open(entry, self._tasks)
        except SemanticError as error:
            opening.error = opening.error or error
        finally:
            entry.end_opening(opening)

    async def _unload(self, entry: RegisteredModel[Model]) -> Changed:
        began = trio.current_time()
        async with self._open.lock:
            freed = await self._open.close(entry, "operator") if entry.model is not None else 0
        return Changed(entry.name, trio.current_time() - began, freed)

    async def _apart(self, change: Callable[[], Awaitable[Result]]) -> Result:
        """Run a change to its end in a task of its own, also where its caller is cancelled.

        Returns or raises what it does. Raises `DrainingError` as soon as the registry drains.
        """
        self._refuse_when_closed()
        done, results, errors = trio.Event(), list[Result](), list[SemanticError]()

        async def work() -> None:
            try:
                results.append(await change())
            except SemanticError as error:
                errors.append(error)
            finally:
                done.set()
                self.models.note_change()

        self._start(work)
        while not (done.is_set() or self._is_closed):
            await self.models.next_change()
        if errors:
            raise errors[0]
        if not results:  # the registry drains, or ends and the task with it
            raise DrainingError(FIRST_RETRY_SECONDS)
        return results[0]
