"""mlx-lm's parsers of calls: the only place that imports them.

Knows delimiters and what is between them. Imports no arrays of its own and may be used from any
thread.
"""

import importlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import attrs
from mlx_lm import tokenizer_utils

from semantic_trio.domain.conversation import Tool

# What a parser calls that which has no name.
NAMELESS = "unknown"


@attrs.frozen
class CallParser:
    """The delimiters around calls, and a parser of mlx-lm for what is between them."""

    kind: str  # its name
    start: str
    end: str  # empty where only the turn's end ends a call
    _parser: Callable[[str, list[dict[str, Any]]], object]

    def parse(self, text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
        """Names and arguments (JSON, of an object) of the calls in a text; values get the types
        that the tools want.

        Raises anything at all.
        """
        told = self._parser(text, [_definition(tool) for tool in tools])
        return list(_calls(told if isinstance(told, list) else [told]))


def tool_syntax(tokenizer: Any) -> CallParser | None:  # noqa: ANN401 - transformers ships no types
    """The parser that mlx-lm reads a model's calls with: the one its configuration names, or its
    template or tokens tell of; None for none.
    """
    kind = tokenizer.init_kwargs.get("tool_parser_type") or tokenizer_utils._infer_tool_parser(
        tokenizer
    )
    return None if kind is None else named_syntax(kind)


def named_syntax(kind: str) -> CallParser:
    """The parser with a name."""
    module = importlib.import_module(f"mlx_lm.tool_parsers.{kind}")
    return CallParser(kind, module.tool_call_start, module.tool_call_end, module.parse_tool_call)


def _definition(tool: Tool) -> dict[str, Any]:
    """A tool as the parsers want it."""
    try:
        schema = json.loads(tool.parameters)
    except (ValueError, RecursionError):
        schema = None
    parameters = schema if isinstance(schema, dict) else {}
    return {
        "type": "function",
        "function": {"name": tool.name, "description": tool.description, "parameters": parameters},
    }


def _calls(told: list[object]) -> Iterator[tuple[str, str]]:
    for call in told:
        match call:
            case {"name": str(name), "arguments": str(text)}:
                arguments = json.loads(text)
            case {"name": str(name), "arguments": arguments} | {
                "name": str(name),
                "parameters": arguments,
            }:
                pass
            case _:
                raise ValueError("not a call")
        if name in {"", NAMELESS} or not isinstance(arguments, dict):
            raise ValueError("a call has a name and an object of arguments")
        yield name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)
