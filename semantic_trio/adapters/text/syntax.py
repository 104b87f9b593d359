"""How a model marks its thoughts and its calls in the text it writes.

Knows marks, and the JSON that most models write between those of a call. Knows nothing of templates or tokens.
"""

import json
from collections.abc import Collection, Sequence
from typing import Protocol

import attrs

from semantic_trio.domain.conversation import Tool


class ToolSyntax(Protocol):
    """The words around a call, and how to read what is between them."""

    @property
    def start(self) -> str:
        """What a call begins with, or several in a row."""

    @property
    def end(self) -> str:
        """What it ends with; empty where only the turn's end does."""

    def parse(self, text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
        """Names and arguments (JSON, of an object) of the calls between the marks. Raises anything at all for what is none.

        A `JSONDecodeError` that tells of a string without an end means: what looked like the end mark was within that string.
        """


@attrs.frozen
class ThinkMarks:
    """The words around a thought."""

    start: str = "<think>"
    end: str = "</think>"
    gap: str = "\n\n"  # between the end mark and what is said then

    @property
    def opening(self) -> str:
        """What stands before a thought."""
        return f"{self.start}\n"

    def around(self, thought: str) -> str:
        """A thought as models read it in front of what was said; nothing for none."""
        return f"{self.opening}{thought}\n{self.end}{self.gap}" if thought else ""

    def closed(self, text: str) -> str:
        """A text that ends within a thought, with the thought ended at once."""
        return f"{text}\n{self.end}{self.gap}"


# By the tokens they are made of, in the order in which they are looked for; those that most have come first and serve all others too.
HERMES_THINKS = ThinkMarks()
KNOWN_MARKS: dict[tuple[str, ...], ThinkMarks] = {
    ("<think>", "</think>"): HERMES_THINKS,
    ("<longcat_think>", "</longcat_think>"): ThinkMarks("<longcat_think>", "</longcat_think>"),
    ("<|think:start|>", "<|think:end|>"): ThinkMarks("<|think:start|>", "<|think:end|>"),
    ("[THINK]", "[/THINK]"): ThinkMarks("[THINK]", "[/THINK]", ""),
    ("<|channel>", "<channel|>"): ThinkMarks("<|channel>thought", "<channel|>", ""),
    ("<|open|>", "<|close|>", "<|sep|>"): ThinkMarks("<|open|>think<|sep|>", "<|close|>think<|sep|>", ""),
}


def think_marks(vocabulary: Collection[str]) -> ThinkMarks:
    """The marks of the model with these tokens; those that most have where it has none of its own."""
    return next((marks for tokens, marks in KNOWN_MARKS.items() if all(token in vocabulary for token in tokens)), HERMES_THINKS)


@attrs.frozen
class JsonCalls:
    """Calls as JSON objects between `<tool_call>` marks, as Hermes and Qwen write them and most models have seen them."""

    start: str = "<tool_call>"
    end: str = "</tool_call>"

    def parse(self, text: str, tools: Sequence[Tool]) -> list[tuple[str, str]]:
        """See `ToolSyntax.parse`."""
        told = json.loads(text, strict=False)  # models write the ends of lines within strings as they are
        return [_call(call) for call in (told if isinstance(told, list) else [told])]


def _call(call: object) -> tuple[str, str]:
    match call:
        case {"name": str(name), "arguments": given} | {"name": str(name), "parameters": given} if name:
            arguments = json.loads(given) if isinstance(given, str) else given
        case {"name": str(name), **rest} if name and not rest:
            arguments = {}
        case _:
            raise ValueError("not a call")
    if not isinstance(arguments, dict):
        raise ValueError("arguments are an object")
    return name, json.dumps(arguments, ensure_ascii=False, allow_nan=False)


HERMES = JsonCalls()
