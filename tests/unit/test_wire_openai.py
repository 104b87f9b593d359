"""What a Chat Completions request means."""

import json
from typing import Any

import pytest

from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.chat.request import ChatRequest, generation_params
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import (
    Message,
    Part,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.generation import API_SAMPLING


def meaning(**fields: Any) -> GenerationParams:
    """Of a request with these fields."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return generation_params(decode(json.dumps(body).encode(), ChatRequest))


def test_developer_and_system_messages_stay_where_they_stand() -> None:
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "system", "content": "c"},
    ]
    said = [
        (message.role.value, message.text)
        for message in meaning(messages=messages).conversation.messages
    ]
    assert said == [("system", "a"), ("user", "b"), ("assistant", ""), ("system", "c")]


@pytest.mark.parametrize(
    ("stop", "strings"), [(None, ()), ("x", ("x",)), (["x", "y"], ("x", "y")), ([], ())]
)
def test_stop_is_none_one_or_many(stop: Any, strings: tuple[str, ...]) -> None:
    assert meaning(stop=stop).stop_strings == strings


def test_max_completion_tokens_goes_before_its_old_name() -> None:
    assert meaning().max_tokens is None
    assert meaning(max_tokens=7).max_tokens == 7
    assert meaning(max_tokens=7, max_completion_tokens=9).max_tokens == 9


def test_extensions_are_honoured() -> None:
    said = meaning(min_p=0.1, top_k=-1, temperature=0.3).sampling.params(API_SAMPLING)
    assert (said.min_p, said.top_k, said.temperature) == (0.1, 0, 0.3)
    assert meaning(top_k=40).sampling.params(API_SAMPLING).top_k == 40


def test_unknown_fields_are_ignored() -> None:
    fields = {
        "tools": [],
        "parallel_tool_calls": True,
        "logit_bias": {},
        "user": "me",
        "response_format": {"type": "text"},
        "store": False,
    }
    assert meaning(**fields) == meaning()


def test_nulls_are_absent_fields() -> None:
    names = [
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "n",
        "seed",
        "stop",
        "stream",
        "stream_options",
        "max_tokens",
        "max_completion_tokens",
    ]
    assert meaning(**dict.fromkeys(names)) == meaning()


# ----------------------------------------------------------------------------- histories of clients


def said(*messages: dict[str, Any]) -> tuple[Message, ...]:
    """The turns of a history."""
    return meaning(messages=list(messages)).conversation.messages


def calling(*calls: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """An assistant's turn with calls."""
    return {"role": "assistant", "content": None, "tool_calls": list(calls), **fields}


ASSISTANT_PARTS: list[tuple[dict[str, Any], tuple[Part, ...]]] = [
    (
        {
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                {"type": "text", "text": "so"},
            ]
        },
        (Thinking("hm"), Text("so")),
    ),
    (
        {"content": [{"type": "reasoning", "text": "hm"}, {"type": "output_text", "text": "so"}]},
        (Thinking("hm"), Text("so")),
    ),
    ({"content": [{"type": "reasoning", "reasoning": "hm"}]}, (Thinking("hm"),)),
    (
        {
            "content": [
                {"type": "reasoning", "summary": []},
                {"type": "redacted_thinking", "data": "x"},
            ]
        },
        (),
    ),
    (
        {"content": [{"type": "refusal", "refusal": "no"}, {"type": "something_new", "x": 1}]},
        (Text("no"),),
    ),
    ({"content": "so", "reasoning": "hm"}, (Thinking("hm"), Text("so"))),
    ({"content": "so", "reasoning": {"effort": "low"}}, (Text("so"),)),
    (
        {"content": [{"type": "thinking", "thinking": "hm"}], "reasoning_content": "hm"},
        (Thinking("hm"),),
    ),
    (
        {"content": [{"type": "tool_use", "id": "c", "name": "look", "input": {"at": 1}}]},
        (ToolCall("c", "look", '{"at":1}'),),
    ),
    (
        {"content": None, "function_call": {"name": "look", "arguments": "{}"}},
        (ToolCall("look", "look", "{}"),),
    ),
]


@pytest.mark.parametrize(("fields", "parts"), ASSISTANT_PARTS)
def test_what_the_assistant_said_elsewhere_is_understood(
    fields: dict[str, Any], parts: tuple[Part, ...]
) -> None:
    assert said({"role": "assistant", **fields}) == (Message(Role.ASSISTANT, parts),)


@pytest.mark.parametrize("arguments", [{"at": "sky"}, '{"at":"sky"}'])
@pytest.mark.parametrize("kind", [None, "function"])
def test_a_call_may_lack_a_type_and_have_an_object_of_arguments(
    kind: str | None, arguments: object
) -> None:
    [turn] = said(
        calling({"id": "c", "type": kind, "function": {"name": "look", "arguments": arguments}})
    )

    assert turn.calls == (ToolCall("c", "look", '{"at":"sky"}'),)


@pytest.mark.parametrize("arguments", [None, "", "{}"])
def test_a_call_may_lack_arguments(arguments: str | None) -> None:
    [turn] = said(calling({"id": "c", "function": {"name": "look", "arguments": arguments}}))

    assert turn.calls == (ToolCall("c", "look", "{}"),)


def test_calls_without_ids_are_answered_in_their_order() -> None:
    calls: list[dict[str, Any]] = [
        {"id": None, "type": None, "function": {"name": name, "arguments": {}}}
        for name in ("look", "wait")
    ]
    results = [{"role": "tool", "tool_call_id": None, "content": text} for text in ("sun", "rain")]
    asked_again, *answers = said(calling(*calls), *results)

    assert [result.call_id for turn in answers for result in turn.results] == [
        call.id for call in asked_again.calls
    ]
    assert len({call.id for call in asked_again.calls}) == 2


def test_calls_of_two_turns_never_share_an_id() -> None:
    call = {"function": {"name": "look"}}
    turns = said(
        calling(call),
        {"role": "tool", "content": "a"},
        calling(call),
        {"role": "tool", "content": "b"},
    )

    assert [turn.results[0].call_id for turn in turns if turn.results] == [
        turn.calls[0].id for turn in turns if turn.calls
    ]
    assert turns[0].calls[0].id != turns[2].calls[0].id


RESULTS: list[tuple[Any, str]] = [
    ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\n\nb"),
    (
        [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}],
        "a\n\n[an image; this model cannot see images]",
    ),
    (None, ""),
    ([], ""),
]


@pytest.mark.parametrize(("content", "text"), RESULTS)
def test_a_result_may_have_parts(content: Any, text: str) -> None:
    assert said({"role": "tool", "tool_call_id": "c", "content": content}) == (
        Message(Role.USER, (ToolResult("c", text),)),
    )


def test_a_result_in_the_words_of_messages_is_one() -> None:
    result = {
        "type": "tool_result",
        "tool_use_id": "c",
        "content": [{"type": "text", "text": "sun"}],
        "is_error": True,
    }
    assert said({"role": "user", "content": [result]}) == (
        Message(Role.USER, (ToolResult("c", "sun", is_error=True),)),
    )
