"""Thoughts on every wire: whole and streamed alike."""

from typing import Any

import trio.testing
from openai.types.chat import ChatCompletion

from tests.http.agents import create, do
from tests.http.messages import accumulated, body, events, speaking
from tests.http.serving import openai_body, post, running
from tests.http.test_chat import chunks

TWICE = "<think>a</think>b<think>c</think>d"


async def test_two_thoughts_in_one_answer_are_the_same_whole_and_streamed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking(TWICE)) as server:
        whole = await post(server.app, "/v1/chat/completions", openai_body(max_tokens=99))
        stream = await post(server.app, "/v1/chat/completions", openai_body(max_tokens=99, stream=True, n=2))

    message = ChatCompletion.model_validate(whole.json).choices[0].message
    told = [[chunk.choices[0].delta for chunk in chunks(stream.content) if chunk.choices and chunk.choices[0].index == index] for index in (0, 1)]
    assert (message.reasoning_content, message.content) == ("a\n\nc", "bd")  # type: ignore[attr-defined]
    for deltas in told:
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "a\n\nc"
        assert "".join(delta.content or "" for delta in deltas) == "bd"


async def test_two_thoughts_in_a_turn_of_an_agent_are_the_same_whole_and_streamed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking(TWICE)) as server:
        await create(server, id="whole")
        await create(server, id="streamed")
        whole = await do(server, "whole", "generate", message="hi", max_tokens=99)
        stream = await do(server, "streamed", "generate", message="hi", max_tokens=99, stream=True)

    told = list(events(stream.content))
    assert whole.json["thinking"] == "".join(str(data["text"]) for name, data in told if name == "thinking") == "a\n\nc"
    assert whole.json["text"] == "".join(str(data["text"]) for name, data in told if name == "token") == "bd"


async def test_two_thoughts_are_two_blocks_of_the_messages_api(autojump_clock: trio.testing.MockClock) -> None:
    asked = body(thinking={"type": "adaptive"})
    async with running(speaking(TWICE.removeprefix("<think>"))) as server:
        whole = await post(server.app, "/v1/messages", asked)
        stream = await post(server.app, "/v1/messages", {**asked, "stream": True})

    content: Any = whole.json["content"]
    kinds = [(block["type"], block.get("thinking", block.get("text"))) for block in content]
    assert kinds == [("thinking", "a"), ("text", "b"), ("thinking", "c"), ("text", "d")]
    assert [(block.type, getattr(block, "thinking", getattr(block, "text", None))) for block in accumulated(stream.content).content] == kinds
