"""What the application serves and how: built once by the entry point, read by every handler.

Knows the served models and the rules for requests. Knows nothing of wire formats.
"""

from typing import Protocol

import attrs
import trio

from semantic_trio.application.engine import Engine
from semantic_trio.application.handle import Generation
from semantic_trio.domain.chain import unpack
from semantic_trio.domain.conversation import Conversation, Prompt
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.ports import TextCodec

# Text above which encoding moves to a worker thread: a hop costs 40 us, 16,000 characters about 5 ms of the event loop.
ENCODE_IN_LOOP_CHARACTERS = 16_000
# Tokens of a history that are compared as text in the loop: about as many characters.
KNOWN_IN_LOOP_TOKENS = 4_000
# Prompts encoded at the same time: more would only take turns at the interpreter.
ENCODERS = 2
# Names that mean whatever is served: clients that insist on a hosted model's name still work.
ANY_MODEL, ANY_MODEL_PREFIX = "default", "claude-"


@attrs.frozen
class ModelCard:
    """What clients are told of a model."""

    id: str
    display_name: str
    context_length: int  # tokens, prompt and answer together
    created_at: int  # seconds since 1970, UTC
    aliases: tuple[str, ...] = ()


@attrs.frozen(eq=False)
class ServedModel:
    """A model that answers."""

    card: ModelCard
    engine: Engine
    codec: TextCodec
    _encoders: trio.CapacityLimiter = attrs.field(init=False, factory=lambda: trio.CapacityLimiter(ENCODERS))

    async def encode(self, conversation: Conversation, agent: str | None = None) -> Prompt:
        """The prompt of a conversation, going on with the very tokens `agent` has read and said where it can.

        Raises `InvalidRequestError` where the model's template refuses the conversation.
        """
        known = self._known(agent)
        characters = sum(len(part.text) for message in conversation.messages for part in message.parts)
        if characters <= ENCODE_IN_LOOP_CHARACTERS and len(known) <= KNOWN_IN_LOOP_TOKENS:
            return self.codec.encode_prompt(conversation, known)
        return await trio.to_thread.run_sync(self.codec.encode_prompt, conversation, known, limiter=self._encoders)

    def _known(self, name: str | None) -> tuple[int, ...]:
        """The history of an agent that is not in the middle of a turn."""
        agent = self.engine.memory.agents.find(name) if name else None
        return () if agent is None or agent.rows else unpack(agent.history)


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
    api_key: str | None = attrs.field(default=None, repr=False)
    max_body_bytes: int = 33_554_432
    ping_seconds: float = 10.0
    log_prompts: bool = False  # what is said is private


@attrs.frozen(eq=False, kw_only=True)
class AppState:
    """Everything the handlers need. One model today; whoever asks does so by name."""

    model: ServedModel
    metrics: Observer
    version: str
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
        raise ModelNotFoundError(name)
