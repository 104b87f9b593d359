"""State of the application: the served model and the HTTP settings. Built once by the entry point, read by all handlers.

Knows which model a name refers to. Knows nothing of wire formats.
"""

from collections.abc import Callable
from typing import Protocol

import attrs

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.serving.write_pace import WritePace
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.ports import Observer

# Names that stand for any served model: clients that insist on a hosted model's name work.
ANY_MODEL, ANY_MODEL_PREFIX = "default", "claude-"


class Exposition(Protocol):
    """Metrics as scrapers read them."""

    @property
    def content_type(self) -> str:
        """Content type of the exposition."""

    def exposition(self) -> bytes:
        """Return all metrics, in the format that scrapers read."""


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
    refuse_unreadable: bool = False  # refuse images and files instead of replacing them by a placeholder


@attrs.frozen(eq=False, kw_only=True)
class AppState:
    """Everything the handlers need. There is one model today; handlers ask for it by name."""

    model: ServedModel
    metrics: Exposition
    observer: Observer  # of requests and generations
    version: str
    stop: Callable[[], None]  # begin to drain the server and to end the process; at most the first call counts
    pace: WritePace = attrs.field(factory=WritePace)
    settings: HttpSettings = HttpSettings()

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All served models."""
        return (self.model,)

    def resolve(self, name: str) -> ServedModel:
        """Return the model of a name. Raises `ModelNotFoundError`."""
        for model in self.models:
            if name == model.card.id or name in model.card.aliases:
                return model
        if name == ANY_MODEL or name.startswith(ANY_MODEL_PREFIX):
            return self.model
        raise ModelNotFoundError(name, f"served here: {', '.join(model.card.id for model in self.models)}")
