"""Rules for tools, their calls and their results that keep a prompt's front where it was.

`canonical` applies them, and says which clients need them.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs

from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Tool,
    ToolCall,
    ToolResult,
)


def in_json_order(conversation: Conversation) -> Conversation:
    """Return the conversation with the JSON of its tools and calls in one order; arguments that are
    the tool's defaults are left out.
    """
    tools = tuple(
        attrs.evolve(tool, parameters=canonical_json(tool.parameters))
        for tool in conversation.tools
    )
    defaults = {tool.name: _defaults(tool) for tool in tools}

    def ordered(part: Part) -> Part:
        if not isinstance(part, ToolCall):
            return part
        return attrs.evolve(
            part, arguments=_without_defaults(part.arguments, defaults.get(part.name, {}))
        )

    return attrs.evolve(_over_parts(conversation, ordered), tools=tools)


def _defaults(tool: Tool) -> Mapping[str, object]:
    try:
        schema = _read_json(tool.parameters)
    except (ValueError, RecursionError):
        return {}
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if not isinstance(properties, dict):
        return {}
    return {
        name: one["default"]
        for name, one in properties.items()
        if isinstance(one, dict) and "default" in one
    }


def _without_defaults(arguments: str, defaults: Mapping[str, object]) -> str:
    try:
        given = _read_json(arguments)
    except (ValueError, RecursionError):
        return arguments
    if isinstance(given, dict):
        given = {
            name: value
            for name, value in given.items()
            if not (name in defaults and _same(value, defaults[name]))
        }
    return json.dumps(given, sort_keys=True, ensure_ascii=False)


def _same(one: object, other: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def with_tools_where_they_load(conversation: Conversation) -> Conversation:
    """Return the conversation with the definition of each deferred tool in the result that loads
    it.
    """
    by_name = {tool.name: tool for tool in conversation.tools}

    def loaded(part: Part) -> Part:
        if not isinstance(part, ToolResult) or not part.loads:
            return part
        definitions = [
            _definition(by_name[name]) if name in by_name else name for name in part.loads
        ]
        return attrs.evolve(
            part, text="\n".join([part.text, *definitions] if part.text else definitions), loads=()
        )

    head = tuple(tool for tool in conversation.tools if not tool.is_deferred)
    return attrs.evolve(_over_parts(conversation, loaded), tools=head)


def _definition(tool: Tool) -> str:
    """Return the definition of a tool for a place outside the head of a prompt."""
    return (
        f'{{"name": {json.dumps(tool.name)}, "description": '
        f'{json.dumps(tool.description, ensure_ascii=False)}, "parameters": {tool.parameters}}}'
    )


def results_in_call_order(conversation: Conversation) -> Conversation:
    """Return the conversation with results of parallel calls in the order of the calls, in front
    of other parts.
    """
    messages: list[Message] = []
    calls: dict[str, int] = {}
    for message in conversation.messages:
        if message.role is Role.ASSISTANT:
            calls = {call.id: place for place, call in enumerate(message.calls)}
        messages.append(
            _with_results_first(message, calls) if message.role is Role.USER else message
        )
    return attrs.evolve(conversation, messages=tuple(messages))


def _with_results_first(message: Message, calls: Mapping[str, int]) -> Message:
    results = sorted(message.results, key=lambda result: calls.get(result.call_id, len(calls)))
    return attrs.evolve(
        message,
        parts=(*results, *(part for part in message.parts if not isinstance(part, ToolResult))),
    )


def neighbouring_results_joined(conversation: Conversation) -> Conversation:
    """Return the conversation with neighbouring messages of results joined into one."""
    messages: list[Message] = []
    for message in conversation.messages:
        if (
            messages
            and _answers_calls(messages[-1])
            and message.role is Role.USER
            and message.results
        ):
            before = messages.pop()
            messages.append(attrs.evolve(message, parts=(*before.parts, *message.parts)))
        else:
            messages.append(message)
    return attrs.evolve(conversation, messages=tuple(messages))


def _answers_calls(message: Message) -> bool:
    return (
        message.role is Role.USER
        and bool(message.results)
        and len(message.results) == len(message.parts)
    )


def _over_parts(conversation: Conversation, change: Callable[[Part], Part]) -> Conversation:
    return attrs.evolve(conversation, messages=tuple(_changed(conversation.messages, change)))


def _changed(messages: Iterable[Message], change: Callable[[Part], Part]) -> Iterator[Message]:
    for message in messages:
        yield attrs.evolve(message, parts=tuple(change(part) for part in message.parts))


def canonical_json(text: str) -> str:
    """JSON with its keys in order and its blanks in place; what is no JSON, or has a number that no
    float holds, stays as it is.
    """
    try:
        return json.dumps(_read_json(text), sort_keys=True, ensure_ascii=False)
    except (ValueError, RecursionError):
        return text


def _read_json(text: str) -> object:
    """The value of a JSON text.

    Raises `ValueError` where Python would write it otherwise than it was meant: 1e999 as Infinity.
    """
    return json.loads(text, parse_float=_finite, parse_constant=_finite)


def _finite(written: str) -> float:
    value = float(written)
    if not math.isfinite(value):
        raise ValueError(f"no float holds {written}")
    return value
