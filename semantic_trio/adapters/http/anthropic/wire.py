"""What clients of the Messages API send, and what it means.

Knows the wire and the neutral conversation. Fields that are not named here are accepted and ignored: clients send new ones every week, and one
refusal costs them the request. `thinking` and betas are among those for now; of `tools` only the `cache_control` is looked at.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked, sampling_params
from semantic_trio.adapters.http.identity import NOBODY, AgentId, Identity
from semantic_trio.domain.conversation import Conversation, Message, Role, Text

# Claude Code opens its system prompt with a block that differs between conversations (up to 2.1.180 between requests): no two prompts
# would share their front.
BILLING_HEADER = "x-anthropic-billing-header:"


@attrs.frozen
class CacheControl:
    """A breakpoint: the client will send all up to here again."""

    type: str
    ttl: str | None = None


class TextBlock(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A run of text."""

    text: str
    cache_control: CacheControl | None = None


class ThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="thinking"):
    """What a model thought in an earlier turn: accepted, not read again."""


class RedactedThinkingBlock(msgspec.Struct, frozen=True, tag_field="type", tag="redacted_thinking"):
    """What a model thought in an earlier turn, hidden: accepted, not read again."""


@attrs.frozen
class SystemBlock:
    """A run of the system prompt."""

    type: Literal["text"]
    text: str
    cache_control: CacheControl | None = None


ContentBlock = TextBlock | ThinkingBlock | RedactedThinkingBlock


@attrs.frozen
class MessageParam:
    """One turn. System messages stay where they stand."""

    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


@attrs.frozen
class Tool:
    """A tool the model may call: accepted, not read yet."""

    cache_control: CacheControl | None = None


@attrs.frozen
class Metadata:
    """Who asks, in words of the client's own."""

    user_id: object = None


Messages = Annotated[list[MessageParam], msgspec.Meta(min_length=1)]


@attrs.frozen
class CountTokensRequest:
    """A prompt to count."""

    model: str
    messages: Messages
    system: str | list[SystemBlock] | None = None
    metadata: Metadata | None = None
    session_id: AgentId | None = None


@attrs.frozen
class MessagesRequest:
    """A prompt to answer."""

    model: str
    messages: Messages
    max_tokens: Annotated[int, msgspec.Meta(ge=1)]
    system: str | list[SystemBlock] | None = None
    stop_sequences: list[str] | None = None
    stream: bool | None = None
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(ge=0, le=1)] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=0)] | None = None
    tools: list[Tool] | None = None
    cache_control: CacheControl | None = None
    metadata: Metadata | None = None
    session_id: AgentId | None = None

    @property
    def has_breakpoints(self) -> bool:
        """Whether the client says anywhere that it will send the same again."""
        system = self.system if isinstance(self.system, list) else []
        content = (block for message in self.messages if isinstance(message.content, list) for block in message.content)
        controls = [self.cache_control, *(tool.cache_control for tool in self.tools or []), *(block.cache_control for block in system)]
        controls += [block.cache_control for block in content if isinstance(block, TextBlock)]
        return any(control is not None for control in controls)


def asked(request: MessagesRequest, identity: Identity = NOBODY) -> Asked:
    """What a request means."""
    temperature = 1.0 if request.temperature is None else request.temperature
    return Asked(
        model=request.model,
        conversation=conversation(request.system, request.messages),
        max_tokens=request.max_tokens,
        sampling=sampling_params(temperature, request.top_p, request.top_k, None),
        stop_strings=tuple(request.stop_sequences or ()),
        identity=identity,
    )


def conversation(system: str | list[SystemBlock] | None, messages: Iterable[MessageParam]) -> Conversation:
    """System first, then the messages in their order."""
    turns = [Message(Role(message.role), _parts(message.content)) for message in messages]
    head = _system_parts(system or [])
    return Conversation((Message(Role.SYSTEM, head), *turns) if head else tuple(turns))


def _parts(content: str | Iterable[ContentBlock]) -> tuple[Text, ...]:
    if isinstance(content, str):
        return (Text(content),)
    return tuple(Text(block.text) for block in content if isinstance(block, TextBlock))


def _system_parts(system: str | list[SystemBlock]) -> tuple[Text, ...]:
    """The blocks that say something; a system prompt in one string has the header as its first line."""
    if isinstance(system, str):
        texts = [system.partition("\n")[2] if system.startswith(BILLING_HEADER) else system]
    else:
        texts = [block.text for block in system if not block.text.startswith(BILLING_HEADER)]
    return tuple(Text(text) for text in texts if text)
