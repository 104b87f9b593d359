"""The models that are open, and those that a request may open.

Knows trio, names, users and the limits on memory. Knows nothing of how a model is loaded, or what
it answers. One model at a time is opened or closed; requests for one that is not open wait, and the
others are served meanwhile.
"""

import contextvars
import functools
import math
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Generic, TypeVar

import attrs
import structlog
import trio

from semantic_trio.application.acquisition import Acquisition
from semantic_trio.application.backlog import FIRST_RETRY_SECONDS
from semantic_trio.application.model_entry import (
    Changed,
    Lookups,
    Model,
    ModelClose,
    ModelLimits,
    ModelOpener,
    ModelState,
    OpenedStatus,
    Opening,
    RegisteredModel,
)
from semantic_trio.application.observers import Observers
from semantic_trio.domain.errors import (
    DrainingError,
    ModelNotFoundError,
    ModelsBusyError,
    ModelSwapError,
    SemanticError,
)
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.domain.observation import ModelSwapped, ModelUnloaded, UnloadCause
from semantic_trio.ports.observing import Observer

log = structlog.get_logger(__name__)

MIB = 1 << 20
# Seconds until a request that is refused for want of memory may be sent again.
RETRY_SECONDS = 5
# Seconds that requests of a model have to end after their generations have failed.
END_SECONDS = 5.0

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
    _entries: dict[str, RegisteredModel[Model]] = attrs.field(init=False, factory=dict)
    # held while a model is opened or closed
    _lock: trio.Lock = attrs.field(init=False, factory=trio.Lock)
    _nursery: trio.Nursery | None = attrs.field(init=False, default=None)
    # models that become the main one, now or after other changes
    _swaps: list[str] = attrs.field(init=False, factory=list)
    _is_closed: bool = attrs.field(init=False, default=False)
    _uses: int = attrs.field(init=False, default=0)
    _changed: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        for name in self.names.served:
            self.entry(name)

    @property
    def residents(self) -> tuple[Model, ...]:
        """All open models, the main one first."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    @property
    def entries(self) -> tuple[RegisteredModel[Model], ...]:
        """All models that are served, open or not, the main one first."""
        return tuple(self._entries[name] for name in self.names.served)

    @property
    def exceeds_budget(self) -> bool:
        """True if the open models, with adapters that they have loaded since, take more than
        `models_budget_mb`.
        """
        return not self._has_bytes(0)

    @property
    def main(self) -> Model | None:
        """The main model, if it is open."""
        return self.entry(self.names.main).model

    def entry(self, name: str) -> RegisteredModel[Model]:
        """Return the entry of a model's own name."""
        return self._entries.setdefault(name, RegisteredModel(name))

    def adopt(self, name: str, model: Model) -> None:
        """Serve a model that is open."""
        entry = self.entry(name)
        entry.state, entry.model, entry.card, entry.failure = (
            ModelState.READY,
            model,
            model.card,
            "",
        )
        self._note_change()

    def hold(self, model: Model, stack: ExitStack) -> None:
        """Keep an open model open until the stack is closed."""
        entry = next(entry for entry in self.entries if entry.model is model)
        entry.users += 1
        self._note_use(entry)
        stack.callback(self._release, entry)

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
            if self._waits_for_swap(name):
                await self._changed.wait()
                continue
            entry = self.entry(self.names.resolve(name))
            if entry.state is ModelState.READY and entry.model is not None:
                self.hold(entry.model, stack)
                return entry.model
            await self._opened(entry)

    def is_open(self, name: str) -> bool:
        """True if `acquire` returns the model of the name without waiting.

        Raises `ModelNotFoundError` and `DrainingError`.
        """
        self._refuse_when_closed()
        return (
            not self._waits_for_swap(name)
            and self.entry(self.names.resolve(name)).state is ModelState.READY
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
        entry = self.entry(self.names.own(name))
        if entry.state is ModelState.READY:
            return Changed(entry.name, 0.0, 0)
        await self._opened(entry, is_new=True)
        return Changed(entry.name, trio.current_time() - began, _bytes(entry))

    async def unload(self, name: str) -> Changed:
        """Close a model: its requests end, or fail after the grace. Raises `ModelNotFoundError`."""
        entry = self.entry(self.names.resolve(name))
        return await self._apart(lambda: self._unload(entry))

    async def swap(self, name: str) -> Changed:
        """Make a model the main one: close the one that was, and open this one.

        Requests for the main model wait meanwhile.

        Raises `ModelNotFoundError` where there is no such model, and nothing has changed;
        `ModelSwapError` where it cannot be opened, and the model from before is the main one again.
        """
        return await self._apart(lambda: self._swap(self.names.own(name)))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the tasks of all models until cancelled. Raises what ends the process."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._close_idle()

    async def drain(self, grace_seconds: float) -> None:
        """Refuse new requests, and return when those of all models are over or have failed."""
        self._is_closed = True
        self._note_change()  # requests that wait for a swap are refused too
        for entry in self._entries.values():
            if entry.opening is not None:
                entry.opening.error = DrainingError(FIRST_RETRY_SECONDS)
                entry.opening.over.set()
        async with trio.open_nursery() as nursery:
            for model in self.residents:
                nursery.start_soon(model.drain, grace_seconds)

    async def close(self, flush_until: float) -> None:
        """Close all models: their memory is on disk when this returns, if there was time for it."""
        open_entries = [
            entry
            for entry in self._entries.values()
            if entry.state in {ModelState.READY, ModelState.UNLOADING}
        ]
        for entry in open_entries:
            entry.closing.begin(flush_until)
        for entry in open_entries:
            await entry.closed.wait()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise DrainingError(FIRST_RETRY_SECONDS)

    def _waits_for_swap(self, name: str) -> bool:
        """True if a swap may change which model the name stands for, or has the model closed or
        opened.
        """
        if not self._swaps:
            return False
        try:
            return self.names.resolve(name) in {self.names.main, *self._swaps}
        except ModelNotFoundError:  # it may be the name of the new model
            return True

    def _release(self, entry: RegisteredModel[Model]) -> None:
        entry.users -= 1
        self._note_use(entry)

    def _note_use(self, entry: RegisteredModel[Model]) -> None:
        self._uses += 1
        entry.used, entry.idle_since = self._uses, trio.current_time()
        self._note_change()

    def _note_change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

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
            self._note_change()
        if opening.error is not None:
            raise opening.error

    def _start(self, task: Callable[..., Awaitable[object]], *arguments: object) -> None:
        """Start a task that outlives the request which needs it, and so has nothing of its
        context.
        """
        assert self._nursery is not None, "models are opened and closed while the registry runs"
        contextvars.Context().run(self._nursery.start_soon, task, *arguments)

    async def _open_for_requests(
        self, entry: RegisteredModel[Model], opening: Opening, is_new: bool
    ) -> None:
        try:
            async with self._lock:
                if entry.state is not ModelState.READY and (
                    is_new or entry.name in self.names.served
                ):
                    await self._close_others(entry)
                    await self._open(entry)
        except SemanticError as error:
            opening.error = opening.error or error
        finally:
            _end_opening(entry, opening)

    async def _open(self, entry: RegisteredModel[Model]) -> None:
        """Open a model. Raises what opening it raises, and then the model is absent."""
        entry.state, entry.closing, entry.closed = ModelState.LOADING, ModelClose(), trio.Event()
        try:
            await self._start_serving(entry)
        except SemanticError as failure:
            entry.state, entry.failure = ModelState.FAILED, str(failure)
            log.error("a model cannot be opened", model=entry.name, reason=str(failure))
            raise
        self._note_use(entry)
        log.info("a model is open", model=entry.name, bytes=_bytes(entry))

    async def _start_serving(self, entry: RegisteredModel[Model]) -> None:
        """Start to serve a model.

        Raises a `SemanticError` for all that opening it raises: the other models go on.
        """
        assert self._nursery is not None, "models are opened while the registry runs"
        with _named_faults(entry.name):
            await self._nursery.start(self._serve, entry)

    async def _serve(
        self, entry: RegisteredModel[Model], *, task_status: trio.TaskStatus[None]
    ) -> None:
        def adopt(model: Model) -> None:
            self.names.add(entry.name)
            self.adopt(entry.name, model)
            task_status.started()

        try:
            await self.opener.serve(entry.name, entry.closing, task_status=OpenedStatus(adopt))
        finally:
            entry.closed.set()

    async def _close_others(self, wanted: RegisteredModel[Model]) -> None:
        """Close models, least recently used first, until the wanted one fits.

        Raises as `_needed` does, and `ModelsBusyError`.
        """
        needed = await self._needed(wanted.name) if self.limits.budget_bytes else 0
        while not self._fits(needed):
            await self._vacate(
                min(self._open_entries, key=lambda entry: (not entry.is_idle, entry.used)), wanted
            )

    async def _needed(self, name: str) -> int:
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

    @property
    def _open_entries(self) -> list[RegisteredModel[Model]]:
        return [entry for entry in self._entries.values() if entry.model is not None]

    def _fits(self, needed: int) -> bool:
        most = self.limits.max_models
        return (not most or len(self._open_entries) < most) and self._has_bytes(needed)

    def _has_bytes(self, needed: int) -> bool:
        held = sum(_bytes(entry) for entry in self._open_entries)
        return not self.limits.budget_bytes or held + needed <= self.limits.budget_bytes

    async def _vacate(self, entry: RegisteredModel[Model], wanted: RegisteredModel[Model]) -> None:
        """Close a model for another one when its requests are over.

        Raises `ModelsBusyError` if they are not in time: then it is served on.
        """
        # requests that it was opened for are served first
        while entry.waiting and entry.opening is None:
            await self._changed.wait()
        entry.state = ModelState.UNLOADING
        if not await self._without_users(entry, self.limits.grace_seconds):
            entry.state = ModelState.READY
            if entry.opening is not None:
                _end_opening(entry, entry.opening)
            raise ModelsBusyError(wanted.name, entry.name, entry.users, RETRY_SECONDS)
        await self._close(entry, "memory")

    # -------------------------------------------------------------------------------------- closing

    async def _without_users(self, entry: RegisteredModel[Model], seconds: float) -> bool:
        """Return True when no request uses the model, and False if one does after some seconds."""
        with trio.move_on_after(seconds):
            while entry.users:
                await self._changed.wait()
        return not entry.users

    async def _close(self, entry: RegisteredModel[Model], cause: UnloadCause) -> int:
        """Close an open model: new requests wait, open ones end or fail after the grace.

        Returns the bytes that are free again.
        """
        assert entry.model is not None, "an open model is closed"
        entry.state, began = ModelState.UNLOADING, trio.current_time()
        freed = entry.model.bytes
        if not await self._without_users(entry, self.limits.grace_seconds):
            await entry.model.drain(
                0, DrainingError(FIRST_RETRY_SECONDS, f"{entry.name} is being unloaded")
            )
            await self._without_users(entry, END_SECONDS)
        entry.model = None  # the last reference is that of the task which serves it
        entry.closing.begin(trio.current_time() + self.limits.grace_seconds)
        await entry.closed.wait()
        entry.state = ModelState.ABSENT
        self._note_change()
        log.info("a model is closed", model=entry.name, bytes=freed, cause=cause)
        self.observer.observe(
            ModelUnloaded(
                model=entry.name, cause=cause, size_bytes=freed, seconds=trio.current_time() - began
            )
        )
        return freed

    async def _unload(self, entry: RegisteredModel[Model]) -> Changed:
        began = trio.current_time()
        async with self._lock:
            freed = await self._close(entry, "operator") if entry.model is not None else 0
        return Changed(entry.name, trio.current_time() - began, freed)

    async def _close_idle(self) -> None:
        """Close models that no request has used for a while."""
        while True:
            until = min(
                (self._due(entry) for entry in self._open_entries if entry.is_idle),
                default=math.inf,
            )
            if until > trio.current_time():
                with trio.move_on_at(until):
                    await self._changed.wait()
                continue
            async with self._lock:
                while overdue := [entry for entry in self._open_entries if self._is_overdue(entry)]:
                    await self._close(overdue[0], "idle")

    def _is_overdue(self, entry: RegisteredModel[Model]) -> bool:
        return entry.is_idle and trio.current_time() >= self._due(entry)

    def _due(self, entry: RegisteredModel[Model]) -> float:
        """Time on trio's clock from which on an idle model is to be closed; infinity: never."""
        return entry.idle_since + self.limits.idle_after(entry.name)

    # ------------------------------------------------------------------------------------- swapping

    async def _swap(self, name: str) -> Changed:
        began = trio.current_time()
        await self._needed(name)  # what cannot be found ends no model
        self._swaps.append(name)
        try:
            async with self._lock:
                old, new = self.entry(self.names.main), self.entry(name)
                if old is not new:
                    await self._exchange(old, new, began)
                    self.observer.observe(
                        ModelSwapped(
                            model=name,
                            previous=old.name,
                            seconds=trio.current_time() - began,
                            is_done=True,
                        )
                    )
        finally:
            self._swaps.remove(name)
            self._note_change()
        seconds = trio.current_time() - began
        log.info("the main model has changed", model=name, seconds=round(seconds, 3))
        return Changed(name, seconds, _bytes(new))

    async def _exchange(
        self, old: RegisteredModel[Model], new: RegisteredModel[Model], began: float
    ) -> None:
        was_open = old.model is not None
        if was_open:
            await self._close(old, "swap")
        try:
            if new.state is not ModelState.READY:
                await self._close_others(new)
                await self._open(new)
        except SemanticError as error:
            # one that was not open has no memory of its own: the next request opens it
            is_back = not was_open or await self._is_open_again(old)
            seconds = trio.current_time() - began
            self.observer.observe(
                ModelSwapped(model=new.name, previous=old.name, seconds=seconds, is_done=False)
            )
            raise ModelSwapError(new.name, old.name, str(error), seconds, is_back) from error
        self.names.become_main(new.name)

    async def _is_open_again(self, entry: RegisteredModel[Model]) -> bool:
        """Open the model from before a swap.

        Returns False if that fails too: the next request tries again.
        """
        try:
            await self._open(entry)
        except SemanticError:
            return False
        return True

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
                self._note_change()

        self._start(work)
        while not (done.is_set() or self._is_closed):
            await self._changed.wait()
        if errors:
            raise errors[0]
        if not results:  # the registry drains, or ends and the task with it
            raise DrainingError(FIRST_RETRY_SECONDS)
        return results[0]


def _bytes(entry: RegisteredModel[Model]) -> int:
    return entry.model.bytes if entry.model is not None else 0


def _end_opening(entry: RegisteredModel[Model], opening: Opening) -> None:
    """Have requests that wait for an opening look at the model again."""
    if entry.opening is opening:
        entry.opening = None
    opening.over.set()


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
