"""The Messages API as its clients read it."""

from itertools import pairwise
from typing import Any

import pytest
import trio.testing
from anthropic.types import Message

from semantic_trio.testing import FakeRunner
from tests.http.messages import accumulated, body, call, events, speaking
from tests.http.serving import Call, anthropic_body, post, running, served


async def test_a_stream_is_the_golden_sequence(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        call = await post(
            server.app, "/v1/messages", anthropic_body(max_tokens=2, stream=True, temperature=0)
        )

    assert [name for name, _ in events(call.content)] == [
        "message_start",
        "ping",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert all(data["type"] == name for name, data in events(call.content))
    assert call.is_complete
    assert call.answer_headers["content-type"].startswith("text/event-stream")


async def test_a_stream_accumulates_to_the_plain_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        # the other two find the same remembered
        await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        plain = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        stream = await post(server.app, "/v1/messages", anthropic_body(temperature=0, stream=True))

    whole = Message.model_validate(plain.json)
    streamed = accumulated(stream.content)
    assert streamed.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert streamed.usage == whole.usage
    assert (whole.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == len(
        "user:hi\nassistant:"
    )
    assert whole.usage.output_tokens == 5
    assert whole.id.startswith("msg_")
    assert whole.id != streamed.id


async def test_a_turn_that_ends_says_end_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(end_after=2))) as server:
        call = await post(server.app, "/v1/messages", anthropic_body())

    message = Message.model_validate(call.json)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 3


async def test_a_stop_sequence_is_named_and_not_shown(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        free = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        said = Message.model_validate(free.json).content[0].text  # type: ignore[union-attr]
        call = await post(
            server.app,
            "/v1/messages",
            anthropic_body(temperature=0, stop_sequences=[said[2:4], ""]),
        )
        stream = await post(
            server.app,
            "/v1/messages",
            anthropic_body(temperature=0, stop_sequences=[said[2:4]], stream=True),
        )

    for message in (Message.model_validate(call.json), accumulated(stream.content)):
        assert message.stop_reason == "stop_sequence"
        assert message.stop_sequence == said[2:4]
        assert message.content[0].text == said[:2]  # type: ignore[union-attr]


async def test_what_might_have_become_a_stop_sequence_is_shown_at_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        free = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        said = Message.model_validate(free.json).content[0].text  # type: ignore[union-attr]
        stops = [said[-2:] + "!"]
        stream = await post(
            server.app,
            "/v1/messages",
            anthropic_body(temperature=0, stop_sequences=stops, stream=True),
        )

    assert accumulated(stream.content).content[0].text == said  # type: ignore[union-attr]
    assert accumulated(stream.content).stop_reason == "max_tokens"


async def test_an_answer_without_text_has_no_content(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(end_after=0))) as server:
        plain = await post(server.app, "/v1/messages", anthropic_body())
        stream = await post(server.app, "/v1/messages", anthropic_body(stream=True))

    assert plain.json["content"] == []
    assert accumulated(stream.content).content == []


async def test_max_tokens_beyond_the_context_is_clamped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), context_length=40)) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(max_tokens=32_000))

    message = Message.model_validate(call.json)
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.input_tokens + message.usage.output_tokens == 40


@pytest.mark.parametrize("name", ["org/tiny", "tiny", "default", "claude-sonnet-5-5"])
async def test_the_model_answers_to_its_names(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(model=name))

    assert call.status == 200
    assert call.json["model"] == "org/tiny"


FIVE_MINUTES, AN_HOUR = {"type": "ephemeral"}, {"type": "ephemeral", "ttl": "1h"}


async def test_count_tokens_equals_what_is_billed(autojump_clock: trio.testing.MockClock) -> None:
    """With all there may be in a prompt."""
    history = [
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "tool_use", "id": "t", "name": "look", "input": {"at": "x"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t",
                    "content": "sun",
                    "cache_control": FIVE_MINUTES,
                }
            ],
        },
    ]
    asked = body(system=[{"type": "text", "text": "be brief"}], messages=history)
    async with running(speaking("so")) as server:
        counted = await post(server.app, "/v1/messages/count_tokens", asked)
        billed = await post(server.app, "/v1/messages", asked)

    usage = Message.model_validate(billed.json).usage
    assert counted.json == {
        "input_tokens": usage.input_tokens + (usage.cache_creation_input_tokens or 0)
    }
    assert usage.input_tokens == len("assistant:"), "after the breakpoint"


async def test_usage_tells_every_token_of_the_prompt_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Turn by turn, the breakpoint moving to the last message as clients move theirs."""
    system = [{"type": "text", "text": "be brief " * 20, "cache_control": AN_HOUR}]
    messages: list[dict[str, object]] = []
    told: list[dict[str, Any]] = []
    async with running(speaking("yes")) as server:
        for turn in range(3):
            said = {"type": "text", "text": f"question {turn}", "cache_control": FIVE_MINUTES}
            asked = body(
                system=system,
                messages=[*messages, {"role": "user", "content": [said]}],
                stream=True,
            )
            told.append(
                accumulated((await post(server.app, "/v1/messages", asked)).content).usage.to_dict()
            )
            messages += [
                {"role": "user", "content": said["text"]},
                {"role": "assistant", "content": "yes"},
            ]

    assert [usage["input_tokens"] for usage in told] == [len("assistant:")] * 3
    assert all(
        usage["cache_creation_input_tokens"] == sum(usage["cache_creation"].values())
        for usage in told
    )
    assert [usage["cache_creation"]["ephemeral_1h_input_tokens"] > 0 for usage in told] == [
        True,
        False,
        False,
    ]
    assert all(
        earlier["cache_read_input_tokens"] < later["cache_read_input_tokens"]
        for earlier, later in pairwise(told)
    )


async def test_the_first_event_knows_what_will_be_read_from_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("yes")) as server:
        _, stream = [
            await post(server.app, "/v1/messages", body(stream=True, cache_control=FIVE_MINUTES))
            for _ in range(2)
        ]

    first, last = [
        data for name, data in events(stream.content) if name in {"message_start", "message_delta"}
    ]
    assert first["message"]["usage"] == {**last["usage"], "output_tokens": 0}
    assert last["usage"]["cache_read_input_tokens"] > 0


async def test_a_session_with_calls_goes_on_from_what_was_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Ids of calls are unique, and results find theirs in whatever order they come."""
    async with running(speaking("hm" + call(at="a") + call(at="b"))) as server:
        first = Message.model_validate((await post(server.app, "/v1/messages", body())).json)
        calls = [block for block in first.content if block.type == "tool_use"]
        results = [
            {"type": "tool_result", "tool_use_id": block.id, "content": "x"}
            for block in reversed(calls)
        ]
        said = [
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [block.to_dict() for block in first.content]},
        ]
        second = await post(
            server.app, "/v1/messages", body(messages=[*said, {"role": "user", "content": results}])
        )

    again = [
        block for block in Message.model_validate(second.json).content if block.type == "tool_use"
    ]
    assert len({block.id for block in (*calls, *again)}) == 4
    assert all(block.id.startswith("toolu_") for block in (*calls, *again))
    assert Message.model_validate(second.json).usage.cache_read_input_tokens


async def test_a_doubled_version_prefix_is_understood(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, "/v1/v1/messages", anthropic_body())

    assert call.status == 200


async def test_unseeded_answers_differ_and_temperature_zero_repeats(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        drawn = {
            (await post(server.app, "/v1/messages", anthropic_body(max_tokens=20))).content.split(
                b'"id"'
            )[0]
            for _ in range(3)
        }
        greedy = {
            (await post(server.app, "/v1/messages", anthropic_body(temperature=0))).content.split(
                b'"id"'
            )[0]
            for _ in range(3)
        }

    assert len(drawn) == 3
    assert len(greedy) == 1


async def test_half_a_character_is_read_as_a_broken_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Clients send it that have cut a text in the middle of an emoji, and send it again with every
    turn.
    """
    cut = (
        rb'{"model": "tiny", "max_tokens": 3, "messages": [{"role": "user", "content": "a\ud83d '
        rb'\\ud83d \ud83d\ude00"}]}'
    )
    async with running(served(FakeRunner())) as server:
        call = await Call(server.app, "POST", "/v1/messages", body=cut).run()
        whole = await post(
            server.app,
            "/v1/messages/count_tokens",
            anthropic_body("a\ufffd \\ud83d \N{GRINNING FACE}"),
        )

    answer: Any = call.json
    counted: Any = whole.json
    assert (call.status, answer["usage"]["input_tokens"]) == (200, counted["input_tokens"])
