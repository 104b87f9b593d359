"""Tools that a client offers, in the words of OpenAI's APIs, and calls of custom tools.

Knows the wire and the neutral tools. A custom tool takes text; the model sees it as a tool whose
only argument is that text. The shapes of Chat Completions, Responses and Messages are read
everywhere: clients choose a shape by the model's name, not by the server.
"""

import json
from collections.abc import Iterable, Iterator, Sequence

import attrs
import msgspec
import structlog

from semantic_trio.domain.conversation import Tool
from semantic_trio.domain.errors import InvalidRequestError

log = structlog.get_logger(__name__)

# Types of tools that can be offered if they have a name.
NAMED = frozenset({None, "function", "custom"})
# Name of the argument that holds the text of a custom tool's call.
INPUT = "input"
CUSTOM_PARAMETERS = json.dumps(
    {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}
)


@attrs.frozen
class FunctionParam:
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, object] | None = None
    strict: bool | None = None


@attrs.frozen
class CustomParam:
    """A custom tool, which takes text."""

    name: str
    description: str | None = None


@attrs.frozen
class ToolParam:
    """A function or custom tool, its fields in an object or beside the type.

    Tools of other types are left out.
    """

    type: str | None = None
    function: FunctionParam | None = None
    custom: CustomParam | None = None
    name: str | None = None
    description: str | None = None
    parameters: dict[str, object] | None = None
    input_schema: dict[str, object] | None = None  # the parameters, as Messages calls them
    strict: bool | None = None

    @property
    def as_function(self) -> FunctionParam | None:
        """Return the function; None for other tools, and for a tool without a name."""
        if self.type not in {None, "function"} and not (
            self.type == "custom" and self.input_schema is not None
        ):
            return None
        parameters = self.input_schema if self.parameters is None else self.parameters
        found = self.function or FunctionParam(
            self.name or "", self.description, strict=self.strict
        )
        return (
            attrs.evolve(
                found, parameters=parameters if found.parameters is None else found.parameters
            )
            if found.name
            else None
        )

    @property
    def as_custom(self) -> CustomParam | None:
        """Return the custom tool; None for other tools, and for a tool without a name."""
        if self.type != "custom" or self.input_schema is not None:
            return None
        found = self.custom or CustomParam(self.name or "", self.description)
        return found if found.name else None


def tools_of(params: Sequence[ToolParam], *, may_call: bool = True) -> tuple[Tool, ...]:
    """Return the functions and custom tools.

    Raises `InvalidRequestError`, with the types, if tools are given and none can be offered: an
    answer without them would be taken for one that was searched or computed. If no tool may be
    called, such tools are left out.
    """
    found = tuple(_tools(params))
    if params and not found and may_call:
        kinds = ", ".join(
            dict.fromkeys(
                f"{param.type or 'tool'} without a name" if param.type in NAMED else str(param.type)
                for param in params
            )
        )
        raise InvalidRequestError(
            f"{kinds}: not supported, the server runs no tools itself; send functions, or no tools",
            "tools",
        )
    return found


def custom_names(params: Iterable[ToolParam]) -> frozenset[str]:
    """Return the names of custom tools."""
    return frozenset(custom.name for param in params if (custom := param.as_custom) is not None)


def custom_call(text: str) -> str:
    """Return the arguments that stand for a custom tool's text."""
    return json.dumps({INPUT: text}, ensure_ascii=False)


def custom_input(arguments: str) -> str:
    """Return the text of a custom tool's call; other arguments are returned unchanged."""
    try:
        found = json.loads(arguments)
    except ValueError:
        return arguments
    text = found.get(INPUT) if isinstance(found, dict) else None
    return text if isinstance(text, str) else arguments


def _tools(params: Iterable[ToolParam]) -> Iterator[Tool]:
    for param in params:
        function, custom = param.as_function, param.as_custom
        if function is not None:
            schema = msgspec.json.encode(function.parameters or {}).decode()
            yield Tool(
                function.name, function.description or "", schema, is_strict=bool(function.strict)
            )
        elif custom is not None:
            yield Tool(custom.name, custom.description or "", CUSTOM_PARAMETERS)
        else:
            log.debug("tool left out", type=param.type)
