"""A model that says what it is told to, and its answers as the SDK for the Messages API reads
them.
"""

import json
from collections.abc import Iterator
from typing import Any

import attrs
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from semantic_trio.domain.step import StepPlan, StepResult
from semantic_trio.testing import END_OF_TURN, FakeRunner
from tests.http.serving import Served, anthropic_body, served

PARSE_EVENT = TypeAdapter[RawMessageStreamEvent](RawMessageStreamEvent)
LOOK = {
    "name": "look",
    "description": "Looks.",
    "input_schema": {"type": "object", "properties": {"at": {"type": "string"}}},
}


@attrs.define(eq=False)
class Speaker(FakeRunner):
    """Says a text and ends its turn, whatever it has read."""

    says: str = ""

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        words = (*self.says.encode(), END_OF_TURN)
        return await super().step(
            attrs.evolve(plan, open=tuple(attrs.evolve(start, forced=words) for start in plan.open))
        )


def speaking(text: str, **fields: Any) -> Served:
    """An application whose model says this."""
    return served(Speaker(says=text), **fields)


def body(**fields: object) -> dict[str, object]:
    """A request with a tool and room for an answer."""
    return anthropic_body(**{"max_tokens": 10_000, "tools": [LOOK], **fields})


def call(**arguments: object) -> str:
    """A call as the model writes it."""
    return f"<tool_call>{json.dumps({'name': 'look', 'arguments': arguments})}</tool_call>"


def events(content: bytes) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and data of a stream."""
    for block in content.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def accumulated(content: bytes) -> Message:
    """What the SDK makes of a stream; every event is checked against its types."""
    message: Any = None
    tool_inputs: Any = {}
    for name, data in events(content):
        if name != "ping":
            event = PARSE_EVENT.validate_python(data)
            message = accumulate_event(event=event, current_snapshot=message, json_bufs=tool_inputs)
    assert isinstance(message, Message)
    return message
