"""Text that a harmony template writes around a call and its result, found by rendering one."""

from collections.abc import Iterator

import attrs

from semantic_trio.adapters.text.harmony_syntax import (
    ASSISTANT,
    CALL,
    COMMENTARY,
    END,
)
from semantic_trio.adapters.text.layout import (
    SlotKind,
    Slots,
)
from semantic_trio.adapters.text.turns import REFUSALS, RESULT_ROLE, Render, turn
from semantic_trio.domain.conversation import (
    Role,
)


@attrs.frozen
class Frames:
    """Text of a template around a call and its result."""

    head: str  # before the name in a call, without the role
    middle: str  # from the name on to the arguments
    result_head: str  # before the name in a result
    result_middle: str  # from the name on to what the call came to
    is_quoted: bool  # results are JSON strings


PLAIN_FRAMES = Frames(
    f"{COMMENTARY} to=functions.",
    " <|constrain|>json<|message|>",
    "<|start|>functions.",
    f" to=assistant{COMMENTARY}<|message|>",
    is_quoted=False,
)


def frames_of(render: Render) -> Iterator[Frames]:
    """Yield the text of the template around a call and its result, where it shows both."""
    slots = Slots()
    user, name, result = slots.hold("u"), slots.hold("n", 0, SlotKind.NAME), slots.hold("r")
    call = {
        "id": "1",
        "type": "function",
        "function": {"name": name, "arguments": {"key": slots.hold("a", 0, SlotKind.ARGUMENTS)}},
    }
    said = {**turn(RESULT_ROLE, result), "tool_call_id": "1", "name": name}
    turns = [turn(Role.USER, user), {**turn(Role.ASSISTANT, ""), "tool_calls": [call]}, said]
    try:
        text, spans = slots.fill(render(turns, speak=False))
    except REFUSALS:
        return
    if [span.slot.text for span in spans] != ["u", "n", "a", "n", "r"]:
        return
    gaps = [text[one.end : other.start] for one, other in zip(spans, spans[1:], strict=False)]
    head, (middle, _, _), (_, closed, result_head), result_middle = (
        gaps[0],
        gaps[1].rpartition("{"),
        gaps[2].partition(CALL),
        gaps[3],
    )
    is_quoted = result_middle.endswith('"')
    if closed and head.startswith(END + ASSISTANT):
        yield Frames(
            head.removeprefix(END + ASSISTANT),
            middle,
            result_head,
            result_middle.removesuffix('"'),
            is_quoted,
        )
