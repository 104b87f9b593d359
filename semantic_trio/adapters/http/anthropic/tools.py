"""Tools on the wire: those a client offers, and what it says of calling them.

Knows definitions and choices. Knows nothing of calls. Tools that the server was to run (web searches, sandboxes) are not for a local model: they are
left out, and not refused.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from semantic_trio.adapters.http.anthropic.blocks import CacheControl
from semantic_trio.adapters.http.anthropic.content import object_of
from semantic_trio.adapters.http.body import decode
from semantic_trio.adapters.http.contract import one_of
from semantic_trio.domain.conversation import FREE_CHOICE, Calling, Tool, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError


def _anything() -> msgspec.Raw:
    return msgspec.Raw(b"{}")


class CustomTool(msgspec.Struct, frozen=True):
    """A tool the client runs."""

    name: Annotated[str, msgspec.Meta(min_length=1)]
    type: Literal["custom"] | None = None
    description: str | None = None
    input_schema: Annotated[msgspec.Raw, msgspec.Meta(extra_json_schema={"type": ["object", "null"]})] = msgspec.field(default_factory=_anything)
    defer_loading: bool | None = None
    strict: bool | None = None
    cache_control: CacheControl | None = None


class ServerTool(msgspec.Struct, frozen=True):
    """A tool the server was to run."""

    type: Annotated[str, msgspec.Meta(pattern="^(?!custom$)")]
    name: str | None = None
    cache_control: CacheControl | None = None


class Typed(msgspec.Struct, frozen=True):
    """As much as tells them apart."""

    type: str | None = None


AnyTool = CustomTool | ServerTool
ToolParam = Annotated[msgspec.Raw, one_of(CustomTool, ServerTool)]


class Choice(msgspec.Struct, frozen=True, tag_field="type"):
    """What all choices have."""

    disable_parallel_tool_use: bool | None = None


class AutoChoice(Choice, tag="auto", frozen=True):
    """It may call."""


class AnyChoice(Choice, tag="any", frozen=True):
    """It has to call."""


class NoChoice(Choice, tag="none", frozen=True):
    """It may not call."""


class NamedChoice(Choice, tag="tool", kw_only=True, frozen=True):
    """It has to call this one."""

    name: str


ToolChoiceParam = AutoChoice | AnyChoice | NoChoice | NamedChoice


def read_tools(raws: Iterable[msgspec.Raw]) -> list[AnyTool]:
    """The tools of a request. Raises `Fault` that names the place."""
    return [_tool(raw, f"tools.{index}") for index, raw in enumerate(raws)]


def neutral(tools: Iterable[AnyTool]) -> tuple[Tool, ...]:
    """Those the client runs."""
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


def choice_of(param: ToolChoiceParam | None, tools: list[AnyTool]) -> ToolChoice:
    """What a request says of calling. Raises `InvalidRequestError` where it demands a tool that it does not offer."""
    if isinstance(param, NamedChoice) and param.name not in {tool.name for tool in tools}:
        raise InvalidRequestError(f"Tool '{param.name}' not found in provided tools", "tool_choice")
    can_call = {tool.name for tool in tools if isinstance(tool, CustomTool)}
    is_single = param is not None and bool(param.disable_parallel_tool_use)
    match param:
        case NoChoice():
            return ToolChoice(Calling.NONE)
        case AnyChoice() if can_call:
            return ToolChoice(Calling.REQUIRED, is_single=is_single)
        case NamedChoice(name=name) if name in can_call:
            return ToolChoice(Calling.REQUIRED, name, is_single=True)
    return ToolChoice(is_single=is_single) if is_single else FREE_CHOICE


def _tool(raw: msgspec.Raw, at: str) -> AnyTool:
    if decode(raw, Typed, at).type in {None, "custom"}:
        return decode(raw, CustomTool, at)
    return decode(raw, ServerTool, at)


def _schema(raw: msgspec.Raw, at: str) -> str:
    return "{}" if bytes(raw) == b"null" else object_of(raw, at)
