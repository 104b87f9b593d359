"""What a Messages request means."""

import json
from typing import Any

import pytest

from semantic_trio.adapters.http.anthropic.wire import MessagesRequest, asked
from semantic_trio.adapters.http.body import decode
from semantic_trio.adapters.http.generate import Asked
from semantic_trio.domain.conversation import Role

BILLING = "x-anthropic-billing-header: cc_version=2.1.329.e97"


def meaning(**fields: Any) -> Asked:
    """Of a request with these fields."""
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}], **fields}
    return asked(decode(json.dumps(body).encode(), MessagesRequest))


def turns(said: Asked) -> list[tuple[str, str]]:
    """Roles and texts."""
    return [(message.role.value, message.text) for message in said.conversation.messages]


def test_a_string_is_a_block_of_text() -> None:
    blocks = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    assert meaning(messages=[{"role": "user", "content": blocks}]) == meaning()


def test_system_messages_stay_where_they_stand() -> None:
    messages = [
        {"role": "user", "content": "a"},
        {"role": "system", "content": "b"},
        {"role": "assistant", "content": "c"},
        {"role": "system", "content": [{"type": "text", "text": "d"}]},
    ]
    said = meaning(system="s", messages=messages)
    assert turns(said) == [("system", "s"), ("user", "a"), ("system", "b"), ("assistant", "c"), ("system", "d")]


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ([{"type": "text", "text": BILLING}, {"type": "text", "text": "be good"}], "be good"),
        (f"{BILLING}\nbe good", "be good"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\n\nb"),
    ],
)
def test_the_billing_header_is_no_part_of_the_prompt(system: Any, text: str) -> None:
    assert turns(meaning(system=system))[0] == ("system", text)


@pytest.mark.parametrize("system", [None, "", [], BILLING, [{"type": "text", "text": BILLING}]])
def test_an_empty_system_prompt_is_none(system: Any) -> None:
    assert turns(meaning(system=system)) == [("user", "hi")]


def test_a_user_may_say_what_looks_like_the_billing_header() -> None:
    assert turns(meaning(messages=[{"role": "user", "content": BILLING}])) == [("user", BILLING)]


def test_thinking_of_earlier_turns_is_dropped() -> None:
    content = [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "redacted_thinking", "data": "y"},
        {"type": "text", "text": "so"},
    ]
    said = meaning(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "content": content}])
    assert turns(said)[1] == ("assistant", "so")


def test_unknown_fields_are_ignored() -> None:
    fields = {
        "metadata": {"user_id": "x"},
        "thinking": {"type": "adaptive"},
        "tools": [{"name": "t", "input_schema": {}}],
        "context_management": {"edits": []},
        "output_config": {"effort": "high"},
        "safeguards": 3,
    }
    assert meaning(**fields) == meaning()


def test_sampling_defaults_to_temperature_one_and_is_honoured() -> None:
    assert meaning().sampling.temperature == 1.0
    said = meaning(temperature=0.5, top_p=0.9, top_k=7).sampling
    assert (said.temperature, said.top_p, said.top_k, said.min_p) == (0.5, 0.9, 7, 0.0)
    assert meaning(temperature=0).sampling.is_greedy
    assert meaning(temperature=1e-300).sampling.is_greedy  # dividing by it overflows
    assert meaning(top_p=0).sampling.top_p > 0


def test_nulls_are_absent_fields() -> None:
    nulls = dict.fromkeys(["temperature", "top_p", "top_k", "stop_sequences", "stream", "system"])
    assert meaning(**nulls) == meaning()


def test_order_is_kept() -> None:
    messages = [{"role": role, "content": str(i)} for i, role in enumerate(["user", "assistant"] * 5)]
    said = meaning(messages=messages)
    assert [message.text for message in said.conversation.messages] == [str(i) for i in range(10)]
    assert said.conversation.messages[1].role is Role.ASSISTANT


def test_whole_numbers_may_have_a_point() -> None:
    assert meaning(max_tokens=32.0, top_k=7.0) == meaning(max_tokens=32, top_k=7)
