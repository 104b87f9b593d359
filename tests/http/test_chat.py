"""The Chat Completions API as its clients read it."""

import itertools
import json
from typing import Any

import pytest
import trio.testing
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from semantic_trio.testing import FakeRunner
from tests.http.serving import openai_body, post, running, served


def lines(content: bytes) -> list[str]:
    """The data of a stream."""
    return [
        line.removeprefix("data: ")
        for line in content.decode().split("\n\n")
        if line.startswith("data: ")
    ]


def chunks(content: bytes) -> list[ChatCompletionChunk]:
    """What the SDK reads of a stream."""
    return [
        ChatCompletionChunk.model_validate_json(line) for line in lines(content) if line != "[DONE]"
    ]


async def test_a_stream_is_the_golden_sequence(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(
            server.app,
            "/v1/chat/completions",
            openai_body(max_tokens=2, stream=True, temperature=0),
        )

    deltas = [json.loads(line)["choices"][0] for line in lines(call.content)[:-1]]
    assert deltas[0]["delta"] == {"role": "assistant", "content": ""}
    assert [
        kind for kind, _ in itertools.groupby(sorted(delta["delta"]) for delta in deltas[1:])
    ] == [["content"], []]
    assert [
        reason for reason, _ in itertools.groupby(delta["finish_reason"] for delta in deltas)
    ] == [None, "length"]
    assert lines(call.content)[-1] == "[DONE]"
    assert all("usage" not in json.loads(line) for line in lines(call.content)[:-1])


async def test_a_stream_accumulates_to_the_plain_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    options = {"include_usage": True}
    async with running(served(FakeRunner())) as server:
        # the other two find the same remembered
        await post(server.app, "/v1/chat/completions", openai_body(temperature=0))
        plain = await post(server.app, "/v1/chat/completions", openai_body(temperature=0))
        stream = await post(
            server.app,
            "/v1/chat/completions",
            openai_body(temperature=0, stream=True, stream_options=options),
        )

    whole = ChatCompletion.model_validate(plain.json)
    pieces = chunks(stream.content)
    assert (
        "".join(c.delta.content or "" for p in pieces for c in p.choices)
        == whole.choices[0].message.content
    )
    assert pieces[-1].choices == []
    assert pieces[-1].usage == whole.usage
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 5
    assert {p.id for p in pieces} == {pieces[0].id}
    assert whole.choices[0].finish_reason == "length"


@pytest.mark.parametrize("as_list", [False, True])
async def test_stop_is_a_string_or_a_list(
    as_list: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        free = ChatCompletion.model_validate(
            (await post(server.app, "/v1/chat/completions", openai_body(temperature=0))).json
        )
        stop = (free.choices[0].message.content or "")[3]
        call = await post(
            server.app,
            "/v1/chat/completions",
            openai_body(temperature=0, stop=[stop] if as_list else stop),
        )

    choice = ChatCompletion.model_validate(call.json).choices[0]
    assert choice.finish_reason == "stop"
    assert stop not in (choice.message.content or "")


async def test_a_seed_repeats(autojump_clock: trio.testing.MockClock) -> None:
    async def said(**fields: Any) -> str | None:
        call = await post(server.app, "/v1/chat/completions", openai_body(**fields))
        return ChatCompletion.model_validate(call.json).choices[0].message.content

    async with running(served(FakeRunner())) as server:
        assert await said(seed=7, max_tokens=20) == await said(seed=7, max_tokens=20)
        assert await said(seed=7, max_tokens=20) != await said(seed=-8, max_tokens=20)


async def test_a_seed_of_minus_one_is_another_one_each_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        calls = [
            await post(server.app, "/v1/chat/completions", openai_body(seed=-1, max_tokens=30, n=2))
            for _ in range(2)
        ]

    told = [
        choice.message.content
        for call in calls
        for choice in ChatCompletion.model_validate(call.json).choices
    ]
    assert len(set(told)) == 4


async def test_max_completion_tokens_wins_and_none_means_the_context(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), context_length=64)) as server:
        newer = await post(
            server.app, "/v1/chat/completions", openai_body(max_tokens=9, max_completion_tokens=3)
        )
        unbounded = await post(server.app, "/v1/chat/completions", openai_body(max_tokens=None))

    assert ChatCompletion.model_validate(newer.json).usage.completion_tokens == 3  # type: ignore[union-attr]
    assert ChatCompletion.model_validate(unbounded.json).usage.total_tokens == 64  # type: ignore[union-attr]
