"""Turns as chat templates know them, and what a template is to us: a function of them."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Protocol

from jinja2.exceptions import TemplateError

from semantic_trio.adapters.text.generic import Definition

# Templates are programs: besides refusing, they fail on what their authors did not think of.
REFUSALS = (
    TemplateError,
    TypeError,
    ValueError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)

Turn = dict[str, object]  # a message as templates know it: role, content, calls
RESULT_ROLE = "tool"
# arguments of a template that say how the model is to think
Switches = Mapping[str, bool | int | str]
NO_SWITCHES: Switches = MappingProxyType({})


class Render(Protocol):
    """A chat template. Raises one of `REFUSALS` for what it does not take."""

    def __call__(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        """The text of turns, `speak`: up to where the assistant is to speak."""


def turn(role: str, content: str) -> Turn:
    """A message as templates know it."""
    return {"role": str(role), "content": content}
