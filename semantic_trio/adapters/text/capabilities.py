"""Capabilities of a chat template, found once by rendering probes.

Knows only the rendered text. Every later prompt of the model relies on these capabilities, so that
one history always becomes the same text.
"""

from collections.abc import Iterator, Sequence

import attrs

from semantic_trio.adapters.text.call_probing import Script, appear, native, takes_system
from semantic_trio.adapters.text.calls import GENERIC, CallFormat
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.switch import NO_SWITCH, Switch, find_switch
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import REFUSALS, RESULT_ROLE, Render, Turn, turn
from semantic_trio.domain.conversation import Role


@attrs.frozen
class TemplateCapabilities:
    """Capabilities of a template."""

    takes_system: bool = True  # as the first message
    takes_late_system: bool = True  # in place, anywhere
    takes_neighbours: bool = True  # two turns of one role in a row
    trims: frozenset[str] = frozenset()  # roles whose texts it strips
    switch: Switch = NO_SWITCH
    calls: CallFormat = GENERIC


def probe(
    render: Render, delimiters: ThoughtDelimiters, syntaxes: Sequence[ToolSyntax] = (HERMES,)
) -> TemplateCapabilities:
    """Return the capabilities of a template.

    A probe counts as accepted if it appears in its place in the text.
    """
    neighbours = appear(render, (Role.USER, Role.USER))
    system = takes_system(render)
    opening = (Role.SYSTEM, Role.USER) if system else (Role.USER,)
    late_orders = (
        (*opening, Role.SYSTEM),
        (*opening, Role.SYSTEM, Role.ASSISTANT, Role.USER, Role.SYSTEM),
        (Role.USER, Role.SYSTEM, Role.ASSISTANT, Role.USER),
        (Role.SYSTEM, Role.SYSTEM, Role.USER),
    )
    late = all(appear(render, roles) for roles in late_orders)
    calls = next(native(render, delimiters, syntaxes), GENERIC)
    return TemplateCapabilities(
        system,
        late,
        neighbours,
        frozenset(_trimmed(render, system, calls)),
        find_switch(render),
        calls,
    )


def _trimmed(render: Render, takes_system: bool, calls: CallFormat) -> Iterator[str]:
    """Yield the roles whose texts the template strips of blanks at both ends.

    For each role a conversation with a padded word is rendered: its blanks are there or not.
    """
    word = "  probe  "
    tries: dict[str, list[Turn]] = {Role.USER: [turn(Role.USER, word)]}
    if takes_system:
        tries[Role.SYSTEM] = [turn(Role.SYSTEM, word), turn(Role.USER, "u")]
    if calls.is_native:
        script = Script(calls.takes_text, calls.numbering)
        tries[RESULT_ROLE] = [
            turn(Role.USER, "u"),
            script.calling("", 1),
            {**script.result(1), "content": word},
        ]
    for role, turns in tries.items():
        try:
            if word not in render(turns):
                yield str(role)
        except REFUSALS:
            continue
