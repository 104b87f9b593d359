"""Tools and which of them may be called, in the words of the Chat Completions API.

Knows the wire and the neutral tools. A custom tool, which takes text, is to the model one whose only argument is that text.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import attrs
import msgspec

from semantic_trio.domain.conversation import Calling, Tool, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError

# What the text of a custom tool is called to the model.
INPUT = "input"
CUSTOM_PARAMETERS = json.dumps({"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]})


@attrs.frozen
class FunctionParam:
    """A function the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


@attrs.frozen
class CustomParam:
    """A tool that takes text."""

    name: str
    description: str | None = None


@attrs.frozen
class ToolParam:
    """A tool the model may call: a function, in itself or as its own fields, or one that takes text. Others are not for this model."""

    type: str = "function"
    function: FunctionParam | None = None
    custom: CustomParam | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


@attrs.frozen
class NamedTool:
    """A tool's name."""

    name: str


@attrs.frozen
class AllowedTool:
    """One of the tools that may be called."""

    type: str = "function"
    function: NamedTool | None = None
    custom: NamedTool | None = None
    name: str | None = None


@attrs.frozen
class AllowedTools:
    """The tools that may be called, or one of which has to be."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[AllowedTool] = attrs.field(factory=list)


@attrs.frozen
class ToolChoiceParam:
    """A tool that has to be called, or some that may be."""

    type: str = "function"
    function: NamedTool | None = None
    custom: NamedTool | None = None
    allowed_tools: AllowedTools | None = None


def tools_of(tools: Iterable[ToolParam]) -> tuple[Tool, ...]:
    """The functions and custom tools among the tools."""
    return tuple(tool for tool in _tools(tools) if tool.name)


def custom_names(tools: Iterable[ToolParam]) -> frozenset[str]:
    """The names of those that take text."""
    return frozenset(_custom(tool).name for tool in tools if tool.type == "custom")


def custom_call(text: str) -> str:
    """The arguments of a custom tool's call."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """The text of a custom tool's call; the arguments as they are where they are others."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    text = found.get(INPUT) if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def choice_of(choice: str | ToolChoiceParam | None, tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    """What may be called. Raises `InvalidRequestError` for a tool that is not offered."""
    if not isinstance(choice, ToolChoiceParam):
        return free_choice(choice or "auto", tools, is_single=is_single)
    if choice.allowed_tools is not None:
        return allowed_choice(choice.allowed_tools.mode, [_name(one) for one in choice.allowed_tools.tools], tools, is_single=is_single)
    return named_choice(_name(choice), tools)


def free_choice(mode: str, tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    """Calls of any tools. Raises `InvalidRequestError` where one is required and none is offered."""
    if mode == "required" and not tools:
        raise InvalidRequestError("a call is required, and there is no tool that could be called", "tool_choice", quotes=False)
    return ToolChoice(Calling(mode), is_single=is_single)


def named_choice(name: str, tools: Sequence[Tool]) -> ToolChoice:
    """One call of this tool. Raises `InvalidRequestError` where it is not offered."""
    _offered([name], tools)
    return ToolChoice(Calling.REQUIRED, name, is_single=True)


def allowed_choice(mode: str, names: Sequence[str], tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    """Calls of these tools alone. Raises `InvalidRequestError` for one that is not offered, and where none is left to be called."""
    _offered(names, tools)
    if not names and mode == "required":
        raise InvalidRequestError("a call is required and no tool is allowed", "tool_choice", quotes=False)
    return ToolChoice(Calling(mode) if names else Calling.NONE, is_single=is_single, allowed=tuple(names))


def _offered(names: Iterable[str], tools: Sequence[Tool]) -> None:
    offered = {tool.name for tool in tools}
    for name in names:
        if name not in offered:
            raise InvalidRequestError(f"tool {name!r} is not among the tools", "tool_choice")


def _name(param: ToolChoiceParam | AllowedTool) -> str:
    named = param.function or param.custom
    if named is not None:
        return named.name
    return (param.name if isinstance(param, AllowedTool) else None) or ""


def _tools(tools: Iterable[ToolParam]) -> Iterator[Tool]:
    for tool in tools:
        if tool.type == "custom":
            custom = _custom(tool)
            yield Tool(custom.name, custom.description or "", CUSTOM_PARAMETERS)
        elif tool.type == "function":
            one = tool.function or FunctionParam(tool.name or "", tool.description, tool.parameters, tool.strict)
            yield Tool(one.name, one.description or "", msgspec.json.encode(one.parameters or {}).decode(), is_strict=bool(one.strict))


def _custom(tool: ToolParam) -> CustomParam:
    return tool.custom or CustomParam(tool.name or "", tool.description)
