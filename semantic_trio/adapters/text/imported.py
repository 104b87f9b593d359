"""Chat templates that are programs of another library instead of Jinja: `chat_template_type` in a
tokenizer's configuration names one.

Knows how such a program is called. Knows nothing of the library.
"""

import json
from collections.abc import Callable, Sequence
from typing import Protocol

import attrs

from semantic_trio.adapters.text.generic import Definition
from semantic_trio.adapters.text.switch import TOGGLES
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import NO_SWITCHES, Switches, Turn, turn
from semantic_trio.domain.conversation import Role

THINKING = TOGGLES[0]


class Program(Protocol):
    """A chat template of another library."""

    @property
    def source(self) -> str:
        """Text of the template, with the delimiters that it writes."""

    @property
    def apply(self) -> Callable[..., str]:
        """Function that makes a prompt: of messages, `tools`, `add_generation_prompt`, switches."""


@attrs.frozen
class ImportedTemplate:
    """A `Render` over a program.

    While the model thinks, programs write earlier turns otherwise. Here all is written as without
    thoughts. Where the model is to think, the delimiter at the end that ends a thought becomes the
    one that begins it: so what was read once never changes.
    """

    _apply: Callable[..., str]
    _delimiters: ThoughtDelimiters

    def __call__(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        """See `Render`."""
        if any(said["role"] == Role.SYSTEM for said in turns[1:]):
            raise ValueError("such a template would tell the tools with every system message")
        if tools and turns[0]["role"] != Role.SYSTEM:
            turns = [turn(Role.SYSTEM, ""), *turns]  # tools stand in the system message
        others = {name: value for name, value in switches.items() if name != THINKING}
        shown = [_with_text(said) for said in turns]
        try:
            text = self._apply(
                shown,
                tools=list(tools) or None,
                add_generation_prompt=speak,
                enable_thinking=False,
                **others,
            )
        except (AssertionError, NotImplementedError) as error:
            raise ValueError(str(error) or type(error).__name__) from error
        if speak and switches.get(THINKING, True) and text.endswith(self._delimiters.end):
            return text.removesuffix(self._delimiters.end) + self._delimiters.start
        return text


def _with_text(said: Turn) -> Turn:
    """A turn with the arguments of its calls as JSON text, which is what programs take."""
    calls = said.get("tool_calls")
    if not isinstance(calls, list):
        return said
    return {
        **said,
        "tool_calls": [
            {**call, "function": _with_text_arguments(call["function"])} for call in calls
        ],
    }


def _with_text_arguments(function: dict[str, object]) -> dict[str, object]:
    arguments = function["arguments"]
    return (
        function
        if isinstance(arguments, str)
        else {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
    )
