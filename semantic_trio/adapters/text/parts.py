"""Chat templates that take content as a list of parts, as those of models that see images do, and
templates that work in neither way.

Knows what comes out of a template.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.generic import Definition
from semantic_trio.adapters.text.turns import NO_SWITCHES, REFUSALS, Render, Switches, Turn, turn
from semantic_trio.domain.conversation import Role

WORD = "probe-said"


@attrs.frozen
class InParts:
    """A template that is given content as parts of text."""

    render: Render

    def __call__(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        """See `Render`."""
        parted = [
            {
                **said,
                "content": [{"type": "text", "text": said["content"]}] if said["content"] else [],
            }
            for said in turns
        ]
        return self.render(parted, tools, speak=speak, switches=switches)


def fitting(render: Render) -> Render:
    """The template, given content in the way it takes.

    Raises `ValueError`, which says why, where it shows a user's message in no way.
    """
    fault = "it leaves out what a user says"
    for one in (render, InParts(render)):
        try:
            if WORD in one([turn(Role.USER, WORD)]):
                return one
        except REFUSALS as error:
            fault = str(error).partition("\n")[0] or type(error).__name__
    raise ValueError(fault)
