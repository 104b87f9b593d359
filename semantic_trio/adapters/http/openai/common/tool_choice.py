"""Tool choices, in the words of OpenAI's APIs.

Knows the wire and the neutral choice. Reads the words of other protocols too: clients talk to many
servers in the shapes of one.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import attrs

from semantic_trio.domain.conversation import Calling, Tool, ToolChoice
from semantic_trio.domain.errors import InvalidRequestError

ChoiceWord = Literal["none", "auto", "required", "any"]

MODES: Mapping[str, Calling] = {
    "none": Calling.NONE,
    "auto": Calling.AUTO,
    "required": Calling.REQUIRED,
    "any": Calling.REQUIRED,
}
# Types of a choice that names a tool. Any other named type is a tool that a provider runs itself.
NAMING = frozenset({"function", "custom", "tool"})


@attrs.frozen
class NamedTool:
    """The name of a tool."""

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
    """The tools that may be called, or one of which must be."""

    mode: Literal["auto", "required"] = "auto"
    tools: list[AllowedTool] = attrs.field(factory=list)


@attrs.frozen
class ToolChoiceParam:
    """A mode (`auto`, `none`, `required`, `any`), a tool that has to be called, or tools that may
    be called.
    """

    type: str = "function"
    function: NamedTool | None = None
    custom: NamedTool | None = None
    name: str | None = None
    allowed_tools: AllowedTools | None = None
    # the mode of `allowed_tools`, where these are not an object
    mode: Literal["auto", "required"] | None = None
    tools: list[AllowedTool] | None = None
    disable_parallel_tool_use: bool | None = None


def choice_of(
    param: str | ToolChoiceParam | None, tools: Sequence[Tool], *, is_single: bool
) -> ToolChoice:
    """Return the tool choice of a request.

    Raises `InvalidRequestError` for a tool that is not offered, or if no tool could be called.
    """
    if not isinstance(param, ToolChoiceParam):
        return _free_choice(MODES[param or "auto"], tools, is_single=is_single)
    is_single = is_single or bool(param.disable_parallel_tool_use)
    if param.type in MODES:
        return _free_choice(MODES[param.type], tools, is_single=is_single)
    if param.type == "allowed_tools" or param.allowed_tools is not None:
        return _allowed_choice(
            param.allowed_tools or AllowedTools(param.mode or "auto", param.tools or []),
            tools,
            is_single=is_single,
        )
    if param.type not in NAMING:
        raise InvalidRequestError(
            f"{param.type} cannot be called: the server runs no tools itself", "tool_choice"
        )
    return _named_choice(_name(param), tools)


def may_call(param: str | ToolChoiceParam | None) -> bool:
    """Return False if no tool may be called."""
    return (param.type if isinstance(param, ToolChoiceParam) else param) != "none"


def _free_choice(calling: Calling, tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    if calling is Calling.REQUIRED and not tools:
        raise InvalidRequestError(
            "a call is required, and there is no tool that could be called",
            "tool_choice",
            quotes=False,
        )
    return ToolChoice(calling, is_single=is_single)


def _named_choice(name: str | None, tools: Sequence[Tool]) -> ToolChoice:
    if name is None:
        raise InvalidRequestError(
            "the tool that has to be called is not named", "tool_choice", quotes=False
        )
    _check_offered([name], tools)
    return ToolChoice(Calling.REQUIRED, name, is_single=True)


def _allowed_choice(param: AllowedTools, tools: Sequence[Tool], *, is_single: bool) -> ToolChoice:
    names = tuple(_name(one) or "" for one in param.tools if one.type in NAMING)
    _check_offered(names, tools)
    if not names and param.mode == "required":
        raise InvalidRequestError(
            "a call is required and no tool is allowed", "tool_choice", quotes=False
        )
    return ToolChoice(
        MODES[param.mode] if names else Calling.NONE, is_single=is_single, allowed=names
    )


def _check_offered(names: Iterable[str], tools: Sequence[Tool]) -> None:
    offered = {tool.name for tool in tools}
    for name in names:
        if name not in offered:
            raise InvalidRequestError(f"tool {name!r} is not among the tools", "tool_choice")


def _name(param: ToolChoiceParam | AllowedTool) -> str | None:
    named = param.function or param.custom
    return param.name if named is None else named.name
