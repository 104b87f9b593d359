"""Tools and tool choices of the Messages API, as they are on the wire.

Knows definitions and choices, in the shapes of OpenAI's APIs too. Knows nothing of calls. Server
tools (web searches, sandboxes) are not for a local model: they are left out, and not refused.
`server_tools` answers requests that only such a tool could serve.
"""

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.anthropic.content import object_of
from semantic_trio.adapters.http.anthropic.content_blocks import CacheControl
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.common.openapi import one_of
from semantic_trio.domain.conversation import FREE_CHOICE, Calling, Tool, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError


def _anything() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


Schema = Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": ["object", "null"]})]


class CustomTool(msgspec.Struct, frozen=True):
    """A tool that the client runs."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: Schema = msgspec.field(default_factory=_anything)
    defer_loading: bool | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class FlatFunction(msgspec.Struct, frozen=True):
    """A tool the client runs, in the shape of the Responses API."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["function"] | None = None
    description: str | None = None
    parameters: Schema = msgspec.field(default_factory=_anything)
    strict: bool | None = None
    cache_control: CacheControl | None = None


class NestedFunction(msgspec.Struct, frozen=True):
    """A tool the client runs, in the shape of Chat Completions."""

    function: FlatFunction
    type: Literal["function"] | None = None
    cache_control: CacheControl | None = None


class ServerTool(msgspec.Struct, frozen=True):
    """A tool that the provider's server would run."""

    type: Annotated[str, msgspec.Meta(pattern="^(?!(custom|function)$)")]
    name: str | None = None
    cache_control: CacheControl | None = None


class Typed(msgspec.Struct, frozen=True):
    """The fields that distinguish shapes of tools."""

    type: str | None = None
    function: object = None
    parameters: object = None
    input_schema: object = None


AnyTool = CustomTool | ServerTool
ToolParam = Annotated[msgspec.Raw, one_of(CustomTool, FlatFunction, NestedFunction, ServerTool)]


class Choice(msgspec.Struct, frozen=True, tag_field="type"):
    """Fields that all choices have."""

    disable_parallel_tool_use: bool | None = None


class AutoChoice(Choice, tag="auto", frozen=True):
    """The model may call tools."""


class AnyChoice(Choice, tag="any", frozen=True):
    """The model has to call a tool."""


class RequiredChoice(Choice, tag="required", frozen=True):
    """The model has to call a tool, in the words of OpenAI's APIs."""


class NoChoice(Choice, tag="none", frozen=True):
    """The model may not call a tool."""


class NamedChoice(Choice, tag="tool", kw_only=True, frozen=True):
    """The model has to call the named tool."""

    name: str


class FunctionName(msgspec.Struct, frozen=True):
    """A tool's name."""

    name: str


class FunctionChoice(Choice, tag="function", frozen=True):
    """The model has to call the named tool, in the words of OpenAI's APIs."""

    name: str | None = None
    function: FunctionName | None = None


TaggedChoice = AutoChoice | AnyChoice | RequiredChoice | NoChoice | NamedChoice | FunctionChoice
ToolChoiceParam = Literal["auto", "any", "required", "none"] | TaggedChoice
WORDS: Mapping[str, TaggedChoice] = {
    "auto": AutoChoice(),
    "any": AnyChoice(),
    "required": AnyChoice(),
    "none": NoChoice(),
}


def read_tools(raws: Iterable[msgspec.Raw]) -> list[AnyTool]:
    """Decode the tools of a request. Raises `Fault` that names the place."""
    return [_tool(raw, f"tools.{index}") for index, raw in enumerate(raws)]


def neutral(tools: Iterable[AnyTool]) -> tuple[Tool, ...]:
    """Return the tools that the client runs."""
    return tuple(
        Tool(
            tool.name,
            tool.description or "",
            _schema(tool.input_schema, f"tools.{index}.input_schema"),
            is_deferred=bool(tool.defer_loading),
            is_strict=bool(tool.strict),
        )
        for index, tool in enumerate(tools)
        if isinstance(tool, CustomTool)
    )


def choice_of(
    param: ToolChoiceParam | None, tools: list[AnyTool], *, is_single: bool = False
) -> ToolChoice:
    """Return the tool choice of a request.

    Raises `InvalidRequestError` for a tool that is not offered.
    """
    choice = WORDS[param] if isinstance(param, str) else param
    name = demanded_name(choice)
    if name is not None and name not in {tool.name for tool in tools}:
        raise InvalidRequestError(f"Tool '{name}' not found in provided tools", "tool_choice")
    can_call = {tool.name for tool in tools if isinstance(tool, CustomTool)}
    is_single = is_single or (choice is not None and bool(choice.disable_parallel_tool_use))
    match choice:
        case NoChoice():
            return ToolChoice(Calling.NONE)
        case AnyChoice() | RequiredChoice() if can_call:
            return ToolChoice(Calling.REQUIRED, is_single=is_single)
        case NamedChoice() | FunctionChoice() if name in can_call:
            return ToolChoice(Calling.REQUIRED, name, is_single=True)
    return ToolChoice(is_single=is_single) if is_single else FREE_CHOICE


def demanded_name(choice: ToolChoiceParam | None) -> str | None:
    """Return the name of the tool that has to be called.

    Raises `InvalidRequestError` for a function without a name.
    """
    match choice:
        case NamedChoice(name=name):
            return name
        case FunctionChoice():
            named = choice.function.name if choice.function else choice.name
            if named is None:
                raise InvalidRequestError("Field required", "tool_choice.name", quotes=False)
            return named
    return None


def _tool(raw: msgspec.Raw, at: str) -> AnyTool:
    typed = decode(raw, Typed, at)
    if typed.type not in {None, "custom", "function"}:
        return decode(raw, ServerTool, at)
    if typed.type != "custom" and typed.function is not None:
        nested = decode(raw, NestedFunction, at)
        return _as_custom(nested.function, nested.cache_control)
    if typed.type == "function" or (
        typed.type is None and typed.parameters is not None and typed.input_schema is None
    ):
        flat = decode(raw, FlatFunction, at)
        return _as_custom(flat, flat.cache_control)
    return decode(raw, CustomTool, at)


def _as_custom(function: FlatFunction, control: CacheControl | None) -> CustomTool:
    return CustomTool(
        function.name,
        None,
        function.description,
        function.parameters,
        strict=function.strict,
        cache_control=control,
    )


def _schema(raw: msgspec.Raw, at: str) -> str:
    return "{}" if bytes(raw) == b"null" else object_of(raw, at)
