"""Whole conversations in the format of every family: all that was said is told, in its order, and
what was read once never changes.
"""

from itertools import pairwise

import pytest

from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from tests.call_templates import TEMPLATES
from tests.unit.call_readings import ANY_TEMPLATE, TOOLS, called, pieces, read


def said(role: Role, *parts: Part) -> Message:
    return Message(role, parts)


CALLS = (
    ToolCall("i1", "srv.look", '{"where": "place1"}'),
    ToolCall("i2", "write_file", '{"path": "place2", "lines": 3}'),
)
MESSAGES = (
    said(Role.SYSTEM, Text("system1")),
    said(Role.USER, Text("user1")),
    said(Role.USER, Text("user2")),
    said(Role.ASSISTANT, Thinking("thought1"), Text("answer1"), *CALLS),
    said(Role.USER, ToolResult("i2", "result2", is_error=True), ToolResult("i1", "result1")),
    said(Role.ASSISTANT, Thinking("thought2"), ToolCall("i3", "srv.look", "{}")),
    said(Role.USER, ToolResult("i3", "result3"), Text("user3")),
    said(Role.SYSTEM, Text("system2")),
    said(Role.ASSISTANT, Text("answer2")),
    said(Role.USER, Text("user4")),
)
WORDS = [
    "system1",
    "user1",
    "user2",
    "thought1",
    "answer1",
    "place1",
    "place2",
    "result1",
    "result2",
    "thought2",
    "result3",
    "user3",
    "system2",
    "answer2",
    "user4",
]
ENDS = (3, 5, 8, 10)  # where the model is to answer


def told(name: str, count: int = len(MESSAGES)) -> str:
    return ANY_TEMPLATE[name].prompt(canonical(Conversation(MESSAGES[:count], TOOLS)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_everything_is_told_once_and_in_its_order(name: str) -> None:
    """Results came in another order than their calls, users and the system spoke in a row and
    late.
    """
    text = told(name)

    assert [text.count(word) for word in WORDS] == [1] * len(WORDS)
    places = [text.index(word) for word in WORDS]
    assert places == sorted(places)


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_was_read_up_to_an_answer_is_never_changed(name: str) -> None:
    for short, long in pairwise(ENDS):
        assert told(name, long).startswith(told(name, short).removesuffix("[assistant]"))


@pytest.mark.parametrize("name", TEMPLATES)
def test_calls_of_earlier_turns_stand_as_the_model_writes_them(name: str) -> None:
    """So what is told of a call is read as that call."""
    text = told(name)
    turn = text[text.index("answer1") + len("answer1") : text.index("<end>", text.index("place2"))]

    for size in (1, len(turn)):
        assert called(read(name, pieces(turn, size))) == [
            ("srv.look", {"where": "place1"}),
            ("write_file", {"path": "place2", "lines": 3}),
        ]
