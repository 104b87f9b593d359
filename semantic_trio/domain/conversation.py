"""The conversation that requests of every protocol become before they become tokens: messages made
of parts, and the tools that may be called.

Knows roles, text, thoughts, calls and their results. Knows nothing of wire formats or chat
templates. Order is meaning: a system message stays where it stands, because moving it would change
every token after it. The one exception is a rule of `canonical.py`.
"""

import enum
from collections.abc import Iterator

import attrs

from semantic_trio.domain.eviction import Rank

# Characters a template writes around a message, about.
FRAME = 40
# How much a model may be asked to think, the least first.
EFFORTS = ("minimal", "low", "medium", "high", "xhigh", "max")


class Role(enum.StrEnum):
    """Speaker of a message."""

    SYSTEM = "system"
    USER = "user"
    ASSISTANT = "assistant"


@attrs.frozen
class Unread:
    """A part of a request that the model cannot read. Words stand for it in the conversation."""

    kind: str  # image, document, audio, video
    place: str  # dotted path in the request


@attrs.frozen
class Text:
    """A run of text, exactly as it was said; or words for what the model cannot read."""

    text: str
    unread: Unread | None = attrs.field(default=None, eq=False)


@attrs.frozen
class Thinking:
    """Thoughts of the model before its text."""

    text: str


@attrs.frozen
class ToolCall:
    """A tool the model calls."""

    id: str
    name: str
    arguments: str  # JSON, of an object where the model has kept to its tools


@attrs.frozen
class ToolResult:
    """Result of a call. A part of the user's messages."""

    call_id: str
    text: str
    is_error: bool = False
    # names of tools that were put off until now; the model learns of them here
    loads: tuple[str, ...] = ()
    # what of the result the model cannot read
    unread: tuple[Unread, ...] = attrs.field(default=(), eq=False)


Part = Text | Thinking | ToolCall | ToolResult


@attrs.frozen
class CallPiece:
    """A piece of a call that is being written.

    The first piece announces the call; a `ToolCall` or a `CutCall` of the same id ends it.
    """

    id: str
    name: str
    arguments: str  # the next characters of the arguments that the whole call will have


@attrs.frozen
class CutCall:
    """A call that was announced and did not become whole. An answer ends with it."""

    id: str
    name: str
    arguments: str  # all that was told of them: never JSON by itself
    written: str  # the call as the model wrote it


AnswerPart = Part | CallPiece | CutCall  # what an answer consists of while it comes


@attrs.frozen
class Message:
    """One turn of one speaker."""

    role: Role
    parts: tuple[Part, ...]
    # set: its end is a cache breakpoint, and no part of what is said
    rank: Rank | None = attrs.field(default=None, eq=False)
    # a system message that is no part of the head, although only system messages are in front of it
    is_late: bool = False

    @property
    def text(self) -> str:
        """All text of the message; parts are separated by a blank line, as they are blocks of their
        own.
        """
        return "\n\n".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def thinking(self) -> str:
        """All thoughts of the message."""
        return "\n\n".join(part.text for part in self.parts if isinstance(part, Thinking))

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        """The calls in it, in their order."""
        return tuple(part for part in self.parts if isinstance(part, ToolCall))

    @property
    def results(self) -> tuple[ToolResult, ...]:
        """The results in it, in their order."""
        return tuple(part for part in self.parts if isinstance(part, ToolResult))


@attrs.frozen
class Tool:
    """A tool the model may call."""

    name: str
    description: str = ""
    parameters: str = "{}"  # JSON Schema of its arguments
    is_deferred: bool = False  # the model does not know of it until a result loads it
    # its arguments have to be as `parameters` say; no part of what the model is told
    is_strict: bool = attrs.field(default=False, eq=False)


class Calling(enum.Enum):
    """Tools in the answer: forbidden, allowed or demanded."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


@attrs.frozen
class ToolChoice:
    """Tools that the next answer may call. No part of the history."""

    calling: Calling = Calling.AUTO
    name: str | None = None  # the tool that has to be called
    is_single: bool = False  # one call at most
    allowed: tuple[str, ...] | None = None  # the tools that may be called; None: all


FREE_CHOICE = ToolChoice()


# Whether to think, how much, with how many tokens at most: as in `Conversation`.
ThinkingChoice = tuple[bool | None, str | None, int | None]


@attrs.frozen
class Conversation:
    """Everything the model is to read, in order, and how it may answer."""

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = FREE_CHOICE
    # whether the next answer begins with thoughts; None: as the model is used to
    thinks: bool | None = None
    effort: str | None = None  # one of `EFFORTS`: how much it thinks; None: as the model is used to
    # tokens of the next answer that may be thoughts; None: as many as there are
    thought_budget: int | None = None
    schema: str | None = None  # JSON Schema of what the next answer says; None: it may say anything
    # the next answer goes on with the last message, where that is the assistant's and does not end
    # with calls
    continues: bool = False

    @property
    def prefill(self) -> Message | None:
        """The message that the next answer goes on with; None where the answer is a turn of its
        own.
        """
        last = self.messages[-1] if self.continues and self.messages else None
        return (
            last
            if last is not None and last.role is Role.ASSISTANT and last.parts and not last.calls
            else None
        )

    @property
    def thinking(self) -> ThinkingChoice:
        """The choice of thinking."""
        return self.thinks, self.effort, self.thought_budget

    @property
    def leading(self) -> int:
        """Number of system messages at the front that are told as the system prompt."""
        others = (
            at
            for at, message in enumerate(self.messages)
            if message.role is not Role.SYSTEM or message.is_late
        )
        return next(others, len(self.messages))

    @property
    def unread(self) -> Iterator[Unread]:
        """All parts of the conversation that the model cannot read, in order."""
        for part in (part for message in self.messages for part in message.parts):
            if isinstance(part, Text) and part.unread is not None:
                yield part.unread
            elif isinstance(part, ToolResult):
                yield from part.unread

    @property
    def demands_form(self) -> bool:
        """True if the answer has to have a form: calls of certain tools, or JSON."""
        if self.schema is not None:
            return True
        if not self.tools or self.choice.calling is Calling.NONE:
            return False
        return (
            self.choice.calling is Calling.REQUIRED
            or self.choice.allowed is not None
            or any(tool.is_strict for tool in self.tools)
        )

    @property
    def characters(self) -> int:
        """Length of the conversation, about, in characters: with the frame of each message and
        part, empty ones too.
        """
        tools = sum(FRAME + len(tool.description) + len(tool.parameters) for tool in self.tools)
        parts = (part for message in self.messages for part in message.parts)
        said = sum(
            FRAME + len(part.arguments if isinstance(part, ToolCall) else part.text)
            for part in parts
        )
        return tools + said + FRAME * len(self.messages)

    @property
    def prompt_characters(self) -> int:
        """Characters that a template writes into the prompt at least: all but thoughts, which many
        leave out.
        """
        tools = sum(len(tool.description) + len(tool.parameters) for tool in self.tools)
        parts = (
            part
            for message in self.messages
            for part in message.parts
            if not isinstance(part, Thinking)
        )
        return tools + sum(
            len(part.arguments if isinstance(part, ToolCall) else part.text) for part in parts
        )


NOTHING_SAID = Conversation(())
