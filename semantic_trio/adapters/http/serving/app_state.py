"""State of the application: the served models and the HTTP settings.

Built once by the entry point, read by all handlers.

Knows nothing of wire formats.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

import attrs
import trio

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.serving.write_pace import WritePace
from semantic_trio.application.acquisition import Acquisition
from semantic_trio.application.adapters import AdapterShelf
from semantic_trio.application.models import ModelRegistry
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.ports.observing import Observer


class ServerMetrics(Protocol):
    """Metrics as scrapers read them, and those that only handlers know."""

    @property
    def content_type(self) -> str:
        """Content type of the exposition."""

    def exposition(self) -> bytes:
        """Return all metrics, in the format that scrapers read."""

    def tokenized(self, seconds: float) -> None:
        """Observe how long the tokens of a request took."""


@attrs.frozen(kw_only=True)
class HttpSettings:
    """Settings of the HTTP server."""

    host: str = "127.0.0.1"  # as bound
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()  # host names beside loopback and `host`
    allowed_origins: tuple[str, ...] = ()  # origins of web pages, beside those of the hosts above
    api_key: str | None = attrs.field(default=None, repr=False)
    max_body_bytes: int = 33_554_432
    ping_seconds: float = 10.0
    shutdown_timeout_seconds: float = 30.0  # for open requests to end once the server drains
    log_prompts: bool = False  # prompts are private
    traces: bool = False  # a request whose client sends no trace begins one
    # refuse images and files instead of replacing them by a placeholder
    refuse_unreadable: bool = False


@attrs.define(eq=False)
class BatchWindow:
    """The batch window of all models, those that will be opened included."""

    seconds: float = 0.01


@attrs.frozen(eq=False, kw_only=True)
class AppState:
    """The state that all handlers share."""

    registry: ModelRegistry[ServedModel]
    metrics: ServerMetrics
    observer: Observer  # of requests and generations
    version: str
    # begin to drain the server and to end the process; at most the first call counts
    stop: Callable[[], None]
    pace: WritePace = attrs.field(factory=WritePace)
    settings: HttpSettings = HttpSettings()

    window: BatchWindow = attrs.field(factory=BatchWindow)
    shelf: AdapterShelf | None = None  # None: there are no adapters, and no name stands for one

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All open models, the main one first."""
        return self.registry.models.residents

    @contextmanager
    def tokenizing(self) -> Iterator[None]:
        """Observe how long the tokens of a request's texts take, unless one of them is refused."""
        began = trio.current_time()
        yield
        self.metrics.tokenized(trio.current_time() - began)

    def card(self, name: str) -> ModelCard:
        """Return the properties of a model by name; of one that was never open, its id alone.

        Raises `ModelNotFoundError`.
        """
        model_name, adapter = self.apart(name)
        entry = self.registry.models.entry(self.registry.names.resolve(model_name))
        card = entry.card or ModelCard(entry.name, entry.name, 0, 0)
        return attrs.evolve(card, id=f"{card.id}:{adapter}") if adapter else card

    def is_open(self, name: str) -> bool:
        """True if the model of the name is there without waiting.

        Raises `ModelNotFoundError` and `DrainingError`.
        """
        return self.registry.is_open(self.apart(name)[0])

    def acquisition(self, name: str, stack: ExitStack) -> Acquisition[ServedModel]:
        """Begin to acquire the model of a name, without its adapter; it is open, or waited for,
        until the stack is closed.
        """
        return self.registry.acquisition(self.apart(name)[0], stack)

    async def resolve(self, name: str, stack: ExitStack) -> ServedModel:
        """Return the model of a name, with the adapter that the name may end with; open until the
        stack of the request is closed.

        It is opened first where it is not. Raises `ModelNotFoundError`, `ModelsBusyError`,
        `DrainingError`, `StepFailedError`.
        """
        model_name, adapter = self.apart(name)
        model = await self.registry.acquire(model_name, stack)
        if not adapter:
            return model
        return await model.adapted(adapter, stack, lambda: self.registry.exceeds_budget)

    def apart(self, name: str) -> tuple[str, str]:
        """Return the names of the model and of the adapter in a name; the adapter is empty where
        the name has none, or the server.
        """
        return self.registry.names.apart(name) if self.shelf is not None else (name, "")
