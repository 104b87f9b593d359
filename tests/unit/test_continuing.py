"""Answers that go on with a message: what is told of them, and what the whole turn is."""

import pytest

from semantic_trio.application.answer import Encoded, PlainReader
from semantic_trio.application.continuing import continuing, whole_turn
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
)
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.prompt import Prompt

CASES = [
    ("is ", [" Paris"], "Paris"),
    ("is ", ["Paris"], "Paris"),
    ("is ", ["  Paris"], " Paris"),
    ("is", [" Paris"], " Paris"),
    ("so\n\n", ["\n", "\n", "\nOne"], "\nOne"),
    ("so\n\n", [" \n\nOne"], " \n\nOne"),
    ("is ", [" ", " ", "x"], " x"),
]


@pytest.mark.parametrize(("message", "pieces", "told"), CASES)
def test_blanks_that_the_message_ended_with_are_not_told_again(
    message: str, pieces: list[str], told: str
) -> None:
    reader = continuing(PlainReader(), Message(Role.ASSISTANT, (Text(message),)))

    parts = [part for piece in pieces for part in reader.push(piece)] + reader.finish()

    assert "".join(part.text for part in parts if isinstance(part, Text)) == told


def test_a_turn_of_its_own_is_read_as_it_is() -> None:
    reader = PlainReader()
    assert continuing(reader, None) is reader


TURNS: list[tuple[tuple[Part, ...], tuple[Part, ...], tuple[Part, ...]]] = [
    (
        (Text("is "),),
        (Text("Paris"), ToolCall("c", "look", "{}")),
        (Text("is Paris"), ToolCall("c", "look", "{}")),
    ),
    ((Thinking("hm"), Text("is")), (Text(" Paris"),), (Thinking("hm"), Text("is Paris"))),
    ((Thinking("hm"),), (Text("Paris"),), (Thinking("hm"), Text("Paris"))),
    ((Text("is"),), (), (Text("is"),)),
]


@pytest.mark.parametrize(("begun", "answer", "whole"), TURNS)
def test_the_whole_turn_is_the_message_and_the_answer(
    begun: tuple[Part, ...], answer: tuple[Part, ...], whole: tuple[Part, ...]
) -> None:
    assert whole_turn(Message(Role.ASSISTANT, begun), answer) == whole


def test_the_turn_has_the_name_that_the_next_request_gives_it() -> None:
    question = Message(Role.USER, (Text("Which city?"),))
    begun = Conversation((question, Message(Role.ASSISTANT, (Text("It is "),))), continues=True)
    told_back = Conversation((question, Message(Role.ASSISTANT, (Text("It is Paris."),))))

    name = Encoded(begun, chain(begun), Prompt(())).digest_with((Text("Paris."),))

    assert name == chain(told_back)[-1]
