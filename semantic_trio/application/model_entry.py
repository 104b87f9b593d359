"""A model that is served, by name: its state, its users, and the order to close it.

Knows what the registry needs of a model and of whatever opens one. Knows nothing of how either
works.
"""

import enum
import math
from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

import attrs
import trio

from semantic_trio.domain.errors import DrainingError, SemanticError
from semantic_trio.domain.model_card import ModelCard


class ModelState(enum.Enum):
    """The state of a model that is served."""

    ABSENT = "absent"  # opened by the next request that names it
    LOADING = "loading"
    READY = "ready"
    UNLOADING = "unloading"
    FAILED = "failed"  # the next request that names it tries again


class Resident(Protocol):
    """An open model."""

    @property
    def card(self) -> ModelCard:
        """Properties that clients see."""

    @property
    def bytes(self) -> int:
        """Bytes of its weights, and of the memory that its cache may take."""

    async def drain(self, grace_seconds: float, error: DrainingError | None = None) -> None:
        """Refuse new requests, and return when the open ones are over, at the latest after
        `grace_seconds`: then they have failed, with the error.
        """


Model = TypeVar("Model", bound=Resident)
Opened_co = TypeVar("Opened_co", bound=Resident, covariant=True)


@attrs.define(eq=False)
class ModelClose:
    """The order to close a model."""

    # on trio's clock: what the model remembers is to be on disk by then
    flush_until: float = attrs.field(init=False, default=math.inf)
    _begun: trio.Event = attrs.field(init=False, factory=trio.Event)

    def begin(self, flush_until: float) -> None:
        """Close the model. A second order may leave it less time than the first, and no more."""
        self.flush_until = min(self.flush_until, flush_until)
        self._begun.set()

    async def wait(self) -> None:
        """Return when the model is to be closed."""
        await self._begun.wait()


@attrs.frozen(eq=False)
class OpenedStatus(trio.TaskStatus[Model]):
    """The status of a task that serves a model, without a reference to the model.

    Trio's own keeps what was reported as long as the task lasts: the task would free the memory of
    a closed model only after it has ended, when nobody looks for cycles of references.
    """

    adopt: Callable[[Model], None]

    def started(self, value: Model | None = None) -> None:
        """See `trio.TaskStatus`."""
        assert value is not None, "a model is reported"
        self.adopt(value)


class ModelOpener(Protocol[Opened_co]):
    """Opens models and closes them."""

    async def needed_bytes(self, name: str) -> int:
        """Return the bytes that the model will take, as `Resident.bytes` tells them.

        Raises `ModelNotFoundError`.
        """

    async def serve(
        self, name: str, closing: ModelClose, *, task_status: trio.TaskStatus[Opened_co]
    ) -> None:
        """Open a model, report it, and serve it until `closing`; then write its memory to disk and
        return when that of the device is free.

        The requests of the model are over by then. Raises `ModelNotFoundError` and other
        `SemanticError`s before the model is reported, alone or in a group; what is raised after
        that ends the process.
        """


@attrs.frozen(kw_only=True)
class ModelLimits:
    """Limits on the models that are open at the same time."""

    max_models: int = 0  # 0: any number
    budget_bytes: int = 0  # of their weights and caches; 0: any number
    idle_seconds: float = 0.0  # after which a model without requests is closed; 0: never
    idle_seconds_of: Mapping[str, float] = attrs.field(factory=dict)  # of single models, by name
    grace_seconds: float = 30.0  # that requests of a model have to end before it is closed

    def idle_after(self, name: str) -> float:
        """Seconds without a request after which a model is closed; infinity: never."""
        return self.idle_seconds_of.get(name, self.idle_seconds) or math.inf


@attrs.define(eq=False)
class Lookups:
    """Requests that have named a model which is served, counted by whether it was open."""

    hits: int = 0
    misses: int = 0  # they waited for it, whether it could be opened or not


@attrs.frozen
class Changed:
    """A model that was opened or closed, and what that took."""

    model: str
    seconds: float
    bytes: int  # of the model, its cache included; 0: nothing had to be done


@attrs.define(eq=False)
class Opening:
    """An opening that requests wait for."""

    over: trio.Event = attrs.field(init=False, factory=trio.Event)
    error: SemanticError | None = attrs.field(init=False, default=None)


@attrs.define(eq=False)
class RegisteredModel(Generic[Model]):
    """A model by name: its state, and the requests that use it or wait for it."""

    name: str
    state: ModelState = ModelState.ABSENT
    model: Model | None = None  # while requests may use it
    card: ModelCard | None = None  # known once the model was open
    failure: str = ""  # why it could not be opened
    users: int = 0  # requests that use it
    waiting: int = 0  # requests that wait for it to be opened
    used: int = 0  # grows with every use of any model
    idle_since: float = 0.0  # on trio's clock
    opening: Opening | None = None
    closing: ModelClose = attrs.field(factory=ModelClose)
    closed: trio.Event = attrs.field(factory=trio.Event)

    @property
    def is_idle(self) -> bool:
        """True if the model is open, and no request uses it or waits for it."""
        return self.state is ModelState.READY and not self.users and not self.waiting

    @property
    def bytes(self) -> int:
        """As `Resident.bytes`; 0 if the model is not open."""
        return self.model.bytes if self.model is not None else 0

    def end_opening(self, opening: Opening) -> None:
        """Have the requests that wait for an opening look at the model again."""
        if self.opening is opening:
            self.opening = None
        opening.over.set()
