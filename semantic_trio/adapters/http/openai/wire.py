"""What clients of the Chat Completions API send, and what it means.

Knows the wire and the neutral conversation. Fields that are not named here are accepted and ignored, `tools` among them for now; `min_p`,
`top_k` and `session_id` are extensions.
"""

from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked, sampling_params
from semantic_trio.adapters.http.identity import NOBODY, AgentId, Identity
from semantic_trio.domain.conversation import Conversation, Message, Role, Text

ROLES = {"developer": Role.SYSTEM, "system": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


@attrs.frozen
class TextPart:
    """A run of text."""

    type: Literal["text"]
    text: str


@attrs.frozen
class ChatMessage:
    """One turn. System and developer messages stay where they stand."""

    role: Literal["developer", "system", "user", "assistant"]
    content: str | list[TextPart] | None = None


@attrs.frozen
class StreamOptions:
    """What a stream tells beside the text."""

    include_usage: bool | None = None


@attrs.frozen
class ChatRequest:
    """A conversation to go on with."""

    model: str
    messages: Annotated[list[ChatMessage], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    max_completion_tokens: Annotated[int, msgspec.Meta(ge=1)] | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=-1)] | None = None
    min_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    n: Annotated[int, msgspec.Meta(ge=1, le=1)] | None = None
    seed: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    session_id: AgentId | None = None
    prompt_cache_key: str | None = None

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


def asked(request: ChatRequest, identity: Identity = NOBODY) -> Asked:
    """What a request means."""
    temperature = 1.0 if request.temperature is None else request.temperature
    stop = [request.stop] if isinstance(request.stop, str) else request.stop or []
    return Asked(
        model=request.model,
        conversation=Conversation(tuple(message_of(message) for message in request.messages)),
        max_tokens=request.max_tokens if request.max_completion_tokens is None else request.max_completion_tokens,
        sampling=sampling_params(temperature, request.top_p, request.top_k, request.min_p),
        stop_strings=tuple(stop),
        seed=request.seed,
        identity=identity,
    )


def message_of(message: ChatMessage) -> Message:
    """A turn of the neutral conversation."""
    return Message(ROLES[message.role], _parts(message.content))


def _parts(content: str | list[TextPart] | None) -> tuple[Text, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(Text(part.text) for part in content or ())
