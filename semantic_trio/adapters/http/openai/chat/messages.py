"""Messages of a chat, and which messages of the neutral conversation they are.

Knows the wire and the neutral conversation. Knows nothing of requests.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.openai.chat.content import ContentPart, parts_of, result_of
from semantic_trio.adapters.http.openai.common.tools import custom_call
from semantic_trio.domain.conversation import Message, Part, Role, Text, Thinking, ToolCall

ROLES = {
    "developer": Role.SYSTEM,
    "system": Role.SYSTEM,
    "user": Role.USER,
    "assistant": Role.ASSISTANT,
    "tool": Role.USER,
    "function": Role.USER,
}
RESULT_ROLES = frozenset({"tool", "function"})


@attrs.frozen
class CalledFunctionParam:
    """A called function and its arguments."""

    name: str
    arguments: str | dict[str, object] | None = None

    @property
    def arguments_json(self) -> str:
        """Return the arguments as JSON."""
        if isinstance(self.arguments, dict):
            return msgspec.json.encode(self.arguments).decode()
        return self.arguments or "{}"


@attrs.frozen
class CalledCustomParam:
    """A called custom tool and its text."""

    name: str
    input: str | None = None


@attrs.frozen
class ToolCallParam:
    """A call of the assistant."""

    id: str | None = None  # None: the call's place in the request is its id
    type: str | None = None
    function: CalledFunctionParam | None = None
    custom: CalledCustomParam | None = None


@attrs.frozen
class ChatMessage:
    """One message. System and developer messages keep their place."""

    role: Literal["developer", "system", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    refusal: str | None = None  # of the assistant
    reasoning_content: str | None = None  # of the assistant, from clients that send thinking back
    reasoning: Annotated[
        object,
        msgspec.Meta(
            extra_json_schema={"description": "The same under another name, where it is a text."}
        ),
    ] = None
    tool_calls: list[ToolCallParam] | None = None
    function_call: CalledFunctionParam | None = None  # of the assistant, from the time before tools
    tool_call_id: str | None = None  # of a tool's message: the id of its call
    name: str | None = None  # of a function's message: the name of the function


def messages_of(messages: Iterable[ChatMessage], at: str = "messages") -> tuple[Message, ...]:
    """Return the messages of the neutral conversation. Raises `Fault` that names the place.

    A call without an id gets one, and a result without a call's id belongs to the first call that
    has no result yet.
    """
    turns: list[Message] = []
    open_calls: list[str] = []
    for index, message in enumerate(messages):
        turn = message_of(message, f"{at}.{index}", open_calls)
        open_calls = [call.id for call in turn.calls] if turn.role is Role.ASSISTANT else open_calls
        turns.append(turn)
    return tuple(turns)


def message_of(message: ChatMessage, at: str, open_calls: list[str] | None = None) -> Message:
    """Return a message of the neutral conversation; removes the call it answers from `open_calls`.

    Raises `Fault` that names the place.
    """
    if message.role not in RESULT_ROLES:
        return Message(ROLES[message.role], tuple(_parts(message, at)))
    calls = [] if open_calls is None else open_calls
    call_id = message.tool_call_id or _answered_call(message.name or "", calls)
    if call_id in calls:
        calls.remove(call_id)
    return Message(Role.USER, (result_of(call_id, message.content, f"{at}.content"),))


def _answered_call(name: str, calls: Sequence[str]) -> str:
    """Return the id of the call that a result without an id answers."""
    return name if name in calls or not calls else calls[0]


def _parts(message: ChatMessage, at: str) -> Iterator[Part]:
    parts = parts_of(message.content, f"{at}.content")
    reasoning = message.reasoning if isinstance(message.reasoning, str) else ""
    if thought := message.reasoning_content or reasoning:
        yield Thinking(thought)
        # the same thought again
        parts = tuple(part for part in parts if not isinstance(part, Thinking))
    yield from parts
    if message.refusal:
        yield Text(message.refusal)
    yield from (
        _call(call, f"call_{at}.{index}") for index, call in enumerate(message.tool_calls or ())
    )
    if message.function_call is not None:
        yield ToolCall(
            message.function_call.name,
            message.function_call.name,
            message.function_call.arguments_json,
        )


def _call(call: ToolCallParam, name: str) -> ToolCall:
    """Return a call; `name` is its id where it has none."""
    if call.custom is not None:
        return ToolCall(call.id or name, call.custom.name, custom_call(call.custom.input or ""))
    called = call.function or CalledFunctionParam("")
    return ToolCall(call.id or name, called.name, called.arguments_json)
