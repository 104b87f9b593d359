"""Thoughts on every wire: whole and streamed alike."""

import functools
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from openai.types.chat import ChatCompletion

from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.http.agents import create, do
from tests.http.messages import accumulated, body, events, speaking
from tests.http.serving import Served, anthropic_body, get, openai_body, post, running, served
from tests.http.test_chat import chunks


class FrontCodec(ByteCodec):
    """A template that writes the choice of thinking in front of the conversation."""

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """See `TextCodec.encode_prompt`."""
        prompt, front = (
            super().encode_prompt(conversation),
            tuple(f"thinks {conversation.thinks}\n".encode()),
        )
        return attrs.evolve(
            prompt,
            tokens=(*front, *prompt.tokens),
            head=prompt.head + len(front),
            breakpoints=(),
            thinking=conversation.thinking,
        )


TWICE = "<think>a</think>b<think>c</think>d"


async def test_two_thoughts_in_one_answer_are_the_same_whole_and_streamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(TWICE)) as server:
        whole = await post(server.app, "/v1/chat/completions", openai_body(max_tokens=99))
        stream = await post(
            server.app, "/v1/chat/completions", openai_body(max_tokens=99, stream=True, n=2)
        )

    message = ChatCompletion.model_validate(whole.json).choices[0].message
    told = [
        [
            chunk.choices[0].delta
            for chunk in chunks(stream.content)
            if chunk.choices and chunk.choices[0].index == index
        ]
        for index in (0, 1)
    ]
    assert (message.reasoning_content, message.content) == ("a\n\nc", "bd")  # type: ignore[attr-defined]
    for deltas in told:
        assert (
            "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == "a\n\nc"
        )
        assert "".join(delta.content or "" for delta in deltas) == "bd"


async def test_two_thoughts_in_a_turn_of_an_agent_are_the_same_whole_and_streamed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(TWICE)) as server:
        await create(server, id="whole")
        await create(server, id="streamed")
        whole = await do(server, "whole", "generate", message="hi", max_tokens=99)
        stream = await do(server, "streamed", "generate", message="hi", max_tokens=99, stream=True)

    told = list(events(stream.content))
    assert (
        whole.json["thinking"]
        == "".join(str(data["text"]) for name, data in told if name == "thinking")
        == "a\n\nc"
    )
    assert (
        whole.json["text"]
        == "".join(str(data["text"]) for name, data in told if name == "token")
        == "bd"
    )


async def test_two_thoughts_are_two_blocks_of_the_messages_api(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = body(thinking={"type": "adaptive"})
    async with running(speaking(TWICE.removeprefix("<think>"))) as server:
        whole = await post(server.app, "/v1/messages", asked)
        stream = await post(server.app, "/v1/messages", {**asked, "stream": True})

    content: Any = whole.json["content"]
    kinds = [(block["type"], block.get("thinking", block.get("text"))) for block in content]
    assert kinds == [("thinking", "a"), ("text", "b"), ("thinking", "c"), ("text", "d")]
    assert [
        (block.type, getattr(block, "thinking", getattr(block, "text", None)))
        for block in accumulated(stream.content).content
    ] == kinds


async def test_a_budget_ends_thoughts_and_is_counted_right(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In a batch of answers with other budgets, and with none."""
    ends = len("\n</think>\n\n")
    told: dict[int, Any] = {}

    async def ask(budget: int, *, stream: bool) -> None:
        asked = openai_body(
            max_tokens=60,
            temperature=0,
            thinking={"type": "enabled", "budget_tokens": budget},
            stream=stream,
        )
        told[budget] = await post(server.app, "/v1/chat/completions", asked)

    async with running(served(FakeRunner())) as server:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(functools.partial(ask, 7, stream=False))
            nursery.start_soon(functools.partial(ask, 12, stream=True))
            nursery.start_soon(functools.partial(ask, 100, stream=False))
        messages = await post(
            server.app,
            "/v1/messages",
            anthropic_body(max_tokens=60, thinking={"type": "enabled", "budget_tokens": 9}),
        )

    whole, unbounded = (ChatCompletion.model_validate(told[budget].json) for budget in (7, 100))
    message = whole.choices[0].message
    assert (len(message.reasoning_content), len(message.content or "")) == (7, 60 - 7 - ends)  # type: ignore[attr-defined]
    assert whole.usage is not None
    assert whole.usage.completion_tokens_details is not None
    assert whole.usage.completion_tokens_details.reasoning_tokens == 7 + ends
    assert unbounded.choices[0].message.content == ""
    deltas = [chunk.choices[0].delta for chunk in chunks(told[12].content) if chunk.choices]
    assert len("".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)) == 12
    blocks: Any = messages.json["content"]
    assert [
        (block["type"], len(block.get("thinking", block.get("text", "")))) for block in blocks
    ] == [("thinking", 9), ("text", 60 - 9 - ends)]


CHOICES: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("/v1/chat/completions", {"reasoning_effort": "none"}, {"reasoning_effort": "high"}),
    ("/v1/messages", {"thinking": {"type": "disabled"}}, {"thinking": {"type": "adaptive"}}),
    ("/v1/responses", {"reasoning": {"effort": "none"}}, {"reasoning": {"effort": "high"}}),
    ("/v1/agents/ada/generate", {"enable_thinking": False}, {"enable_thinking": True}),
]


@pytest.mark.parametrize(("path", "before", "after"), CHOICES)
async def test_a_turn_that_missed_because_thinking_was_switched_says_so(
    path: str, before: dict[str, Any], after: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    long = "x" * 100
    bodies = {
        "/v1/responses": {"model": "default", "input": long, "max_output_tokens": 5},
        "/v1/agents/ada/generate": {"message": long, "max_tokens": 5},
    }
    least = bodies.get(path, openai_body(long))

    async def ask(server: Served, fields: dict[str, Any]) -> str:
        return str(
            (
                await post(server.app, path, {**least, **fields}, **{"x-agent-id": "ada"})
            ).answer_headers["x-semantic-cache"]
        )

    async with running(served(FakeRunner(), codec=FrontCodec())) as server:
        await create(server, id="ada")
        same = [await ask(server, before) for _ in range(2)][1]
        switched = await ask(server, after)
        why = (await get(server.app, "/v1/agents/ada/last-turn")).json

    assert "cause=thinking_changed" not in same
    assert "cause=thinking_changed" in switched
    assert why["cause"] == "thinking_changed"
    assert "thinks False" in str(why["stored_text"])
    assert "thinks True" in str(why["prompt_text"])
