"""Items, and which turns of a conversation they are."""

import itertools
import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.responses.history import history
from semantic_trio.adapters.http.openai.responses.ids import (
    input_id,
    item_id,
    new_stem,
    response_id,
    response_of,
)
from semantic_trio.adapters.http.openai.responses.item_messages import (
    messages_of,
    read_input,
    stored_items,
)
from semantic_trio.adapters.http.openai.responses.output_items import OutputItems
from semantic_trio.adapters.http.openai.responses.response_object import (
    OutputMessage,
    OutputReasoning,
)
from semantic_trio.application.answer import Encoded
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
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.prompt import Prompt
from semantic_trio.domain.responses import StoredResponse
from semantic_trio.testing import MemoryResponses

STEM = "0" * 32
CUSTOM = "patch"
QUESTION = Message(Role.USER, (Text("hi"),))

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["", " ", "\n\n", "a\n\n", " b"]
)
arguments = st.dictionaries(
    st.sampled_from("abc"), st.integers() | st.text(max_size=3) | st.booleans(), max_size=2
).map(json.dumps)
calls = st.one_of(
    st.builds(
        ToolCall,
        st.uuids().map(lambda one: f"call_{one.hex}"),
        st.sampled_from(["look", "run"]),
        arguments,
    ),
    st.builds(
        ToolCall,
        st.uuids().map(lambda one: f"call_{one.hex}"),
        st.just(CUSTOM),
        texts.map(lambda text: json.dumps({"input": text})),
    ),
)
# as readers tell them
answers = st.lists(
    st.one_of(texts.filter(bool).map(Text), texts.filter(str.strip).map(Thinking), calls),
    max_size=8,
)


def items(raw: list[dict[str, Any]]) -> list[msgspec.Raw]:
    return [msgspec.Raw(json.dumps(one).encode()) for one in raw]


def read(*raw: dict[str, Any]) -> tuple[Message, ...]:
    return messages_of(read_input(items(list(raw))))


def told(pieces: list[Part]) -> list[dict[str, Any]]:
    """The items in which pieces of an answer are told."""
    output = OutputItems(STEM, frozenset({CUSTOM}))
    for piece in pieces:
        output.add(piece)
    found: list[dict[str, Any]] = json.loads(msgspec.json.encode(output.items()))
    return found


def bare(item: dict[str, Any]) -> dict[str, Any]:
    """An item as clients send it back that keep what they need."""
    return {
        name: value
        for name, value in item.items()
        if name not in {"id", "status", "summary", "encrypted_content"}
    }


def joined(pieces: list[Part]) -> tuple[Part, ...]:
    """The parts of an answer, as they are remembered."""
    parts: list[Part] = []
    for kind, group in itertools.groupby(pieces, type):
        run = list(group)
        parts += (
            run
            if kind is ToolCall
            else [kind("".join(piece.text for piece in run if not isinstance(piece, ToolCall)))]
        )  # type: ignore[call-arg]
    return tuple(parts)


@given(pieces=answers, keeps_all=st.booleans())
def test_an_answer_that_is_sent_back_is_the_turn_that_was_remembered(
    pieces: list[Part], keeps_all: bool
) -> None:
    before = Conversation((QUESTION,))
    remembered = Encoded(before, chain(before), Prompt(())).digest_with(joined(pieces))
    sent = told(pieces) if keeps_all else [bare(item) for item in told(pieces)]

    [question, *answer] = canonical(Conversation((QUESTION, *read(*sent)))).messages

    if remembered is None:
        assert answer == []
    else:
        assert chain(Conversation((question, *answer)))[-1] == remembered


@given(pieces=answers)
def test_what_is_told_whole_is_what_is_told_in_pieces(pieces: list[Part]) -> None:
    output = OutputItems(STEM, frozenset({CUSTOM}))
    heard = [piece for part in pieces for piece in output.add(part)]

    for at, item in enumerate(output.items()):
        mine = [piece.content for piece in heard if piece.at == at]
        if isinstance(item, OutputMessage | OutputReasoning):
            assert item.content[0].text == "".join(
                piece.text for piece in mine if not isinstance(piece, ToolCall)
            )
        else:
            assert len(mine) == 1
    assert [piece.at for piece in heard] == sorted(piece.at for piece in heard)


@given(pieces=answers)
def test_what_is_stored_says_what_was_sent(pieces: list[Part]) -> None:
    sent = read_input(
        items(
            [
                {"role": "user", "content": "hi"},
                *told(pieces),
                {"role": "assistant", "content": "x"},
            ]
        )
    )
    stored = decode(stored_items(sent, STEM), list[msgspec.Raw])

    assert messages_of(read_input(stored)) == messages_of(sent)
    assert all(isinstance(decode(raw, dict[str, object])["id"], str) for raw in stored)


def test_what_the_assistant_does_in_a_row_is_one_turn() -> None:
    said = read(
        {"role": "developer", "content": "be brief"},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
        },
        {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "I look.", "annotations": []}],
        },
        {"type": "web_search_call", "id": "ws_1"},
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
        {"type": "custom_tool_call", "call_id": "d", "name": "patch", "input": "x"},
        {"type": "function_call_output", "call_id": "c", "output": "blue"},
        {
            "type": "custom_tool_call_output",
            "call_id": "d",
            "output": [{"type": "input_text", "text": "done"}],
        },
        {"role": "user", "content": "and?"},
    )

    assert said == (
        Message(Role.SYSTEM, (Text("be brief"),)),
        Message(Role.USER, (Text("a"), Text("b"))),
        Message(
            Role.ASSISTANT,
            (
                Thinking("hm"),
                Text("I look."),
                ToolCall("c", "look", "{}"),
                ToolCall("d", "patch", '{"input": "x"}'),
            ),
        ),
        Message(Role.USER, (ToolResult("c", "blue"),)),
        Message(Role.USER, (ToolResult("d", "done"),)),
        Message(Role.USER, (Text("and?"),)),
    )


def test_what_a_tool_has_found_and_nobody_can_read_is_said_to_be_there() -> None:
    [message] = read(
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [{"type": "input_image", "image_url": "data:,"}],
        }
    )

    assert message.results[0].text == "[an image; this model cannot see images]"


def test_arguments_may_be_an_object() -> None:
    [message] = read(
        {"type": "function_call", "call_id": "c", "name": "look", "arguments": {"at": "sky"}}
    )

    assert message.calls == (ToolCall("c", "look", '{"at":"sky"}'),)


def test_a_summary_is_no_thought() -> None:
    assert (
        read(
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "x"}],
                "encrypted_content": "gAAA",
            }
        )
        == ()
    )


def test_an_id_says_whose_item_it_is() -> None:
    stem = new_stem()

    assert {
        response_of(name)
        for name in (item_id("msg", stem, 0), item_id("fc", stem, 12), input_id(stem, 3))
    } == {response_id(stem)}
    assert {
        response_of(name)
        for name in ("", "msg_1", f"msg_{stem}", f"msg_{stem}_x", f"msg_{stem}_1\n")
    } == {None}


class Circle(MemoryResponses):
    """A database in which two responses follow each other."""

    def chain(self, response_id: str) -> tuple[StoredResponse, ...]:
        """Both."""
        hashes = {"input_hash": "", "output_hash": ""}
        record = StoredResponse("a", "b", "m", 0, "completed", b"[]", b'{"output":[]}', **hashes)
        return record, StoredResponse(
            "b", "a", "m", 0, "completed", b"[]", b'{"output":[]}', **hashes
        )


def test_responses_that_follow_each_other_are_refused() -> None:
    with pytest.raises(InvalidRequestError, match="not stored"):
        history(Circle(), "b", (), "c")


def test_an_item_that_is_referred_to_has_to_be_there() -> None:
    with pytest.raises(Fault) as caught:
        history(MemoryResponses(), None, read_input(items([{"id": "msg_1"}])), "c")

    assert caught.value.status == 404
