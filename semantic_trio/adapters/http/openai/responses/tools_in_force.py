"""Tools and tool choice in force, as a response object reports them.

Knows the wire and the neutral choice. Offers and choices are read as in Chat Completions; the
response object reports those in force: tools that a provider would run itself are left out, and not
refused, because clients offer them to every server.
"""

from collections.abc import Iterable, Iterator
from typing import Literal

import attrs
import msgspec

from semantic_trio.adapters.http.openai.common.tools import ToolParam
from semantic_trio.domain.conversation import Calling, ToolChoice


class FunctionInForce(msgspec.Struct, frozen=True, tag_field="type", tag="function"):
    """A function that is offered."""

    name: str
    description: str | None
    parameters: dict[str, object]
    strict: bool


class CustomInForce(msgspec.Struct, frozen=True, tag_field="type", tag="custom"):
    """A custom tool that is offered."""

    name: str
    description: str | None


ToolInForce = FunctionInForce | CustomInForce


@attrs.frozen
class ToolName:
    """A tool that may be called."""

    type: Literal["function", "custom"]
    name: str


@attrs.frozen
class ChoiceInForce:
    """The tool that has to be called, or the tools that may be."""

    type: Literal["function", "custom", "allowed_tools"]
    name: str | msgspec.UnsetType = msgspec.UNSET
    mode: Literal["auto", "required"] | msgspec.UnsetType = msgspec.UNSET
    tools: tuple[ToolName, ...] | msgspec.UnsetType = msgspec.UNSET


ModeInForce = Literal["none", "auto", "required"]
MODES: dict[Calling, ModeInForce] = {
    Calling.NONE: "none",
    Calling.AUTO: "auto",
    Calling.REQUIRED: "required",
}


def tools_in_force(params: Iterable[ToolParam]) -> tuple[ToolInForce, ...]:
    """Return the tools that are offered to the model."""
    return tuple(_in_force(params))


def choice_in_force(choice: ToolChoice, customs: frozenset[str]) -> ModeInForce | ChoiceInForce:
    """Return the choice in force; `customs` are the names of custom tools."""
    if choice.name is not None:
        return ChoiceInForce(_kind(choice.name, customs), choice.name)
    if choice.allowed is None:
        return MODES[choice.calling]
    mode: Literal["auto", "required"] = "required" if choice.calling is Calling.REQUIRED else "auto"
    return ChoiceInForce(
        "allowed_tools",
        mode=mode,
        tools=tuple(ToolName(_kind(name, customs), name) for name in choice.allowed),
    )


def _in_force(params: Iterable[ToolParam]) -> Iterator[ToolInForce]:
    for param in params:
        function, custom = param.as_function, param.as_custom
        if function is not None:
            yield FunctionInForce(
                function.name,
                function.description,
                function.parameters or {},
                bool(function.strict),
            )
        elif custom is not None:
            yield CustomInForce(custom.name, custom.description)


def _kind(name: str, customs: frozenset[str]) -> Literal["function", "custom"]:
    return "custom" if name in customs else "function"
