"""What a Chat Completions request means."""

import json
from typing import Any

import pytest

from semantic_trio.adapters.http.body import decode
from semantic_trio.adapters.http.generate import Asked
from semantic_trio.adapters.http.openai.wire import ChatRequest, asked
from semantic_trio.domain.generation import API_SAMPLING


def meaning(**fields: Any) -> Asked:
    """Of a request with these fields."""
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    return asked(decode(json.dumps(body).encode(), ChatRequest))


def test_developer_and_system_messages_stay_where_they_stand() -> None:
    messages = [
        {"role": "developer", "content": "a"},
        {"role": "user", "content": [{"type": "text", "text": "b"}]},
        {"role": "assistant", "content": None, "tool_calls": []},
        {"role": "system", "content": "c"},
    ]
    said = [(message.role.value, message.text) for message in meaning(messages=messages).conversation.messages]
    assert said == [("system", "a"), ("user", "b"), ("assistant", ""), ("system", "c")]


@pytest.mark.parametrize(("stop", "strings"), [(None, ()), ("x", ("x",)), (["x", "y"], ("x", "y")), ([], ())])
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
    fields = {"tools": [], "parallel_tool_calls": True, "logit_bias": {}, "user": "me", "response_format": {"type": "text"}, "store": False}
    assert meaning(**fields) == meaning()


def test_nulls_are_absent_fields() -> None:
    names = ["temperature", "top_p", "top_k", "min_p", "n", "seed", "stop", "stream", "stream_options", "max_tokens", "max_completion_tokens"]
    assert meaning(**dict.fromkeys(names)) == meaning()
