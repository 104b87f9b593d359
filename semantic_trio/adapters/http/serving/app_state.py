"""What the application serves and how: built once by the entry point, read by every handler.

Knows which model a name means, and the rules for requests. Knows nothing of wire formats.
"""

from typing import Protocol

import attrs

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.serving.write_pace import WritePace
from semantic_trio.application.handle import Generation
from semantic_trio.domain.errors import ModelNotFoundError

# Names that mean whatever is served: clients that insist on a hosted model's name still work.
ANY_MODEL, ANY_MODEL_PREFIX = "default", "claude-"


class Observer(Protocol):
    """Who counts requests and tokens."""

    @property
    def content_type(self) -> str:
        """Of the exposition."""

    def exposition(self) -> bytes:
        """All that was counted, as scrapers read it."""

    def request_ended(self, *, model: str, protocol: str, status: str, seconds: float) -> None:
        """A request was answered or given up."""

    def generation_closed(self, generation: Generation) -> None:
        """A generation is over; its stamps tell how it went."""


@attrs.frozen(kw_only=True)
class HttpSettings:
    """The rules for requests."""

    host: str = "127.0.0.1"  # as bound
    allow_remote: bool = False
    allowed_hosts: tuple[str, ...] = ()  # names beyond loopback and `host`
    allowed_origins: tuple[str, ...] = ()  # of web pages, beyond those on loopback and the names above
    api_key: str | None = attrs.field(default=None, repr=False)
    max_body_bytes: int = 33_554_432
    ping_seconds: float = 10.0
    log_prompts: bool = False  # what is said is private
    refuse_unreadable: bool = False  # images and files are refused; else the model is told that they are there


@attrs.frozen(eq=False, kw_only=True)
class AppState:
    """Everything the handlers need. One model today; whoever asks does so by name."""

    model: ServedModel
    metrics: Observer
    version: str
    pace: WritePace = attrs.field(factory=WritePace)
    settings: HttpSettings = HttpSettings()

    @property
    def models(self) -> tuple[ServedModel, ...]:
        """All that are served."""
        return (self.model,)

    def resolve(self, name: str) -> ServedModel:
        """The model a client means. Raises `ModelNotFoundError`."""
        for model in self.models:
            if name == model.card.id or name in model.card.aliases:
                return model
        if name == ANY_MODEL or name.startswith(ANY_MODEL_PREFIX):
            return self.model
        raise ModelNotFoundError(name, f"served here: {', '.join(model.card.id for model in self.models)}")
