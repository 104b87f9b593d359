"""Tools and which of them may be called, in the words of the Responses API.

Knows the wire and the neutral tools. Tools of other kinds than functions and those that take text would be somebody else's to carry out: they are
left out, and not refused, because clients offer them to every server.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import attrs
import msgspec
import structlog

from semantic_trio.adapters.http.openai import tools as openai
from semantic_trio.adapters.http.openai.tools import allowed_choice, free_choice, named_choice
from semantic_trio.domain.conversation import Tool, ToolChoice

log = structlog.get_logger(__name__)

OFFERED = frozenset({"function", "custom"})


@attrs.frozen
class ResponseTool:
    """A tool: a function, one that takes text, or another one, which is left out."""

    type: str
    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


@attrs.frozen
class ResponseToolName:
    """One of the tools that may be called."""

    type: str
    name: str | msgspec.UnsetType | None = msgspec.UNSET


@attrs.frozen
class ResponseToolChoice:
    """A tool that has to be called, or some that may be."""

    type: str
    name: str | msgspec.UnsetType | None = msgspec.UNSET
    mode: Literal["auto", "required"] | msgspec.UnsetType = msgspec.UNSET
    tools: list[ResponseToolName] | msgspec.UnsetType = msgspec.UNSET


class FunctionInForce(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A function that is offered."""

    name: str
    description: str | None
    parameters: dict[str, object]
    strict: bool


class CustomInForce(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    """A tool that takes text and is offered."""

    name: str
    description: str | None


ToolInForce = FunctionInForce | CustomInForce


def tools_of(params: Iterable[ResponseTool]) -> tuple[Tool, ...]:
    """The tools that are offered to the model."""
    return openai.tools_of(_as_chat_tool(one) for one in _offered(params))


def _as_chat_tool(one: ResponseTool) -> openai.ToolParam:
    return openai.ToolParam(type=one.type, name=one.name, description=one.description, parameters=one.parameters, strict=one.strict)


def tools_in_force(params: Iterable[ResponseTool]) -> tuple[ToolInForce, ...]:
    """The same, as the client is told of them."""
    return tuple(
        CustomInForce(one.name or "", one.description)
        if one.type == "custom"
        else FunctionInForce(one.name or "", one.description, one.parameters or {}, bool(one.strict))
        for one in _offered(params)
    )


def custom_names(params: Iterable[ResponseTool]) -> frozenset[str]:
    """The names of those that take text."""
    return frozenset(one.name or "" for one in _offered(params) if one.type == "custom")


def choice_of(choice: str | ResponseToolChoice | None, tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    """What may be called; where a tool of another kind is demanded, whatever is offered. Raises `InvalidRequestError` for one that is not offered."""
    match choice:
        case ResponseToolChoice(type="allowed_tools"):
            named = [one.name for one in choice.tools or () if one.type in OFFERED]
            mode = "auto" if isinstance(choice.mode, msgspec.UnsetType) else choice.mode
            return allowed_choice(mode, [name or "" for name in named], tools, is_single=is_single)
        case ResponseToolChoice(type=kind) if kind in OFFERED:
            return named_choice(choice.name or "", tools)
        case str():
            return free_choice(choice, tools, is_single=is_single)
    return ToolChoice(is_single=is_single)


def _offered(params: Iterable[ResponseTool]) -> Iterator[ResponseTool]:
    for one in params:
        if one.type in OFFERED and one.name:
            yield one
        else:
            log.debug("tool left out", type=one.type)
