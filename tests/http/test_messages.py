"""The Messages API as its clients read it."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import trio.testing
from anthropic.lib.streaming._messages import accumulate_event
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from semantic_trio.testing import FakeRunner
from tests.http.serving import anthropic_body, post, running, served

PARSE_EVENT = TypeAdapter[RawMessageStreamEvent](RawMessageStreamEvent)


def events(content: bytes) -> Iterator[tuple[str, dict[str, object]]]:
    """Names and data of a stream."""
    for block in content.decode().strip().split("\n\n"):
        name, data = block.split("\n")
        yield name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


def accumulated(content: bytes) -> Message:
    """What the SDK makes of a stream."""
    message: Any = None
    tool_inputs: Any = {}
    for name, data in events(content):
        if name != "ping":
            message = accumulate_event(event=PARSE_EVENT.validate_python(data), current_snapshot=message, json_bufs=tool_inputs)
    assert isinstance(message, Message)
    return message


async def test_a_stream_is_the_golden_sequence(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(max_tokens=2, stream=True, temperature=0))

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


async def test_a_stream_accumulates_to_the_plain_answer(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        await post(server.app, "/v1/messages", anthropic_body(temperature=0))  # the other two find the same remembered
        plain = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        stream = await post(server.app, "/v1/messages", anthropic_body(temperature=0, stream=True))

    whole = Message.model_validate(plain.json)
    streamed = accumulated(stream.content)
    assert streamed.content[0].text == whole.content[0].text  # type: ignore[union-attr]
    assert streamed.usage == whole.usage
    assert (whole.stop_reason, streamed.stop_reason) == ("max_tokens", "max_tokens")
    assert whole.usage.input_tokens + (whole.usage.cache_read_input_tokens or 0) == len("user:hi\nassistant:")
    assert whole.usage.output_tokens == 5
    assert whole.id.startswith("msg_")
    assert whole.id != streamed.id


async def test_a_turn_that_ends_says_end_turn(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(end_after=2))) as server:
        call = await post(server.app, "/v1/messages", anthropic_body())

    message = Message.model_validate(call.json)
    assert message.stop_reason == "end_turn"
    assert message.usage.output_tokens == 3


async def test_a_stop_sequence_is_named_and_not_shown(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        free = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        said = Message.model_validate(free.json).content[0].text  # type: ignore[union-attr]
        call = await post(server.app, "/v1/messages", anthropic_body(temperature=0, stop_sequences=[said[2:4], ""]))
        stream = await post(server.app, "/v1/messages", anthropic_body(temperature=0, stop_sequences=[said[2:4]], stream=True))

    for message in (Message.model_validate(call.json), accumulated(stream.content)):
        assert message.stop_reason == "stop_sequence"
        assert message.stop_sequence == said[2:4]
        assert message.content[0].text == said[:2]  # type: ignore[union-attr]


async def test_what_might_have_become_a_stop_sequence_is_shown_at_the_end(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        free = await post(server.app, "/v1/messages", anthropic_body(temperature=0))
        said = Message.model_validate(free.json).content[0].text  # type: ignore[union-attr]
        stops = [said[-2:] + "!"]
        stream = await post(server.app, "/v1/messages", anthropic_body(temperature=0, stop_sequences=stops, stream=True))

    assert accumulated(stream.content).content[0].text == said  # type: ignore[union-attr]
    assert accumulated(stream.content).stop_reason == "max_tokens"


async def test_an_answer_without_text_has_no_content(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(end_after=0))) as server:
        plain = await post(server.app, "/v1/messages", anthropic_body())
        stream = await post(server.app, "/v1/messages", anthropic_body(stream=True))

    assert plain.json["content"] == []
    assert accumulated(stream.content).content == []


async def test_max_tokens_beyond_the_context_is_clamped(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(), context_length=40)) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(max_tokens=32_000))

    message = Message.model_validate(call.json)
    assert message.stop_reason == "model_context_window_exceeded"
    assert message.usage.input_tokens + message.usage.output_tokens == 40


@pytest.mark.parametrize("name", ["org/tiny", "tiny", "default", "claude-sonnet-5-5"])
async def test_the_model_answers_to_its_names(name: str, autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(model=name))

    assert call.status == 200
    assert call.json["model"] == "org/tiny"


async def test_count_tokens_equals_what_is_billed(autojump_clock: trio.testing.MockClock) -> None:
    body = anthropic_body(system=[{"type": "text", "text": "be brief"}])
    async with running(served(FakeRunner())) as server:
        counted = await post(server.app, "/v1/messages/count_tokens", body)
        billed = await post(server.app, "/v1/messages", body)

    assert counted.json == {"input_tokens": Message.model_validate(billed.json).usage.input_tokens}


async def test_a_doubled_version_prefix_is_understood(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        call = await post(server.app, "/v1/v1/messages", anthropic_body())

    assert call.status == 200


async def test_unseeded_answers_differ_and_temperature_zero_repeats(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        drawn = {(await post(server.app, "/v1/messages", anthropic_body(max_tokens=20))).content.split(b'"id"')[0] for _ in range(3)}
        greedy = {(await post(server.app, "/v1/messages", anthropic_body(temperature=0))).content.split(b'"id"')[0] for _ in range(3)}

    assert len(drawn) == 3
    assert len(greedy) == 1
