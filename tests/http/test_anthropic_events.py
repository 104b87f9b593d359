"""Every kind of answer, as the SDK for the Messages API reads it: whole, event by event, and
through its stream helpers.
"""

import json
from collections.abc import Callable
from itertools import groupby
from typing import Any

import anthropic
import attrs
import pytest
import trio
import trio.testing
from anthropic.types import Message

from semantic_trio.adapters.http.anthropic import stream as encoder
from semantic_trio.testing import FakeRunner
from tests.http.messages import LOOK, accumulated, body, call, events, speaking
from tests.http.serving import listening, post, running

THOUGHT = "hm</think>"  # the prompt has begun it
ADAPTIVE, OMITTED = {"type": "adaptive"}, {"type": "adaptive", "display": "omitted"}
START, END = ["message_start", "ping"], ["message_delta", "message_stop"]


def block(*deltas: str) -> list[str]:
    """The events of one block."""
    return ["content_block_start", *deltas, "content_block_stop"]


@attrs.frozen
class Case:
    """What a model says, and what becomes of it."""

    says: str
    content: list[dict[str, Any]]
    stop: tuple[str, str | None] = ("end_turn", None)
    fields: dict[str, object] = attrs.field(factory=dict)

    def told(self, message: Message) -> list[dict[str, Any]]:
        """A message's content without what is minted."""
        return [
            {key: value for key, value in part.to_dict().items() if key not in {"id", "signature"}}
            for part in message.content
        ]


def text(said: str) -> dict[str, Any]:
    return {"type": "text", "text": said}


def use(**arguments: object) -> dict[str, Any]:
    return {"type": "tool_use", "name": "look", "input": arguments}


def thinking(thought: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": thought}


CASES = {
    "text": Case("hello é😀", [text("hello é😀")]),
    "thinking": Case(f"{THOUGHT}so", [thinking("hm"), text("so")], fields={"thinking": ADAPTIVE}),
    "thinking for updates": Case(
        f"{THOUGHT}so",
        [thinking("hm"), text("so")],
        fields={"thinking": {"type": "enabled", "display": "updates"}},
    ),
    "thinking omitted": Case(
        f"{THOUGHT}so", [thinking(""), text("so")], fields={"thinking": OMITTED}
    ),
    "thinking nobody asked for": Case(f"<think>{THOUGHT}so", [text("so")]),
    "thinking alone": Case(THOUGHT, [thinking("hm")], fields={"thinking": ADAPTIVE}),
    "one call": Case(call(at="x"), [use(at="x")], ("tool_use", None)),
    "a call without arguments": Case(call(), [use()], ("tool_use", None)),
    "a call with half a character": Case(
        call(at="\ud83d!"), [use(at="\ufffd!")], ("tool_use", None)
    ),
    "parallel calls": Case(
        call(at="x") + call(at="é"), [use(at="x"), use(at="é")], ("tool_use", None)
    ),
    "text and a call": Case(
        "Let me look." + call(at="x"), [text("Let me look."), use(at="x")], ("tool_use", None)
    ),
    "blanks and a call": Case("\n\n" + call(at="x"), [use(at="x")], ("tool_use", None)),
    "all of it": Case(
        f"{THOUGHT}I look." + call(at="x") + "And:" + call(at="y") + "Done",
        [thinking("hm"), text("I look."), use(at="x"), text("And:"), use(at="y"), text("Done")],
        ("tool_use", None),
        {"thinking": ADAPTIVE},
    ),
    "one call, for more are not wanted": Case(
        call(at="x") + call(at="y"),
        [use(at="x")],
        ("tool_use", None),
        {"tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
    ),
    "half of a call": Case('<tool_call>{"name": "lo', [text('<tool_call>{"name": "lo')]),
    "nothing": Case("", []),
    "blanks": Case("\n \n", []),
    "max_tokens": Case("hello", [text("hel")], ("max_tokens", None), {"max_tokens": 3}),
    "max_tokens after a call": Case(
        call() + "hello", [use(), text("he")], ("max_tokens", None), {"max_tokens": len(call()) + 2}
    ),
    "a stop sequence": Case(
        "one STOP two", [text("one ")], ("stop_sequence", "STOP"), {"stop_sequences": ["STOP"]}
    ),
    "a stop sequence after a call": Case(
        call() + "one STOP two",
        [use(), text("one ")],
        ("stop_sequence", "STOP"),
        {"stop_sequences": ["STOP", ""]},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_an_answer_is_the_same_whole_and_streamed(
    case: Case, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking(case.says)) as server:
        plain = await post(server.app, "/v1/messages", body(**case.fields))
        stream = await post(server.app, "/v1/messages", body(**case.fields, stream=True))

    for message in (Message.model_validate(plain.json, strict=True), accumulated(stream.content)):
        assert case.told(message) == case.content
        assert (message.stop_reason, message.stop_sequence) == case.stop
        assert all(part.signature for part in message.content if part.type == "thinking")
        assert all(
            part.id.startswith("toolu_") for part in message.content if part.type == "tool_use"
        )


GOLDEN = {
    "text": [*START, *block("text_delta"), *END],
    "thinking": [*START, *block("thinking_delta", "signature_delta"), *block("text_delta"), *END],
    "thinking omitted": [*START, *block("signature_delta"), *block("text_delta"), *END],
    "thinking alone": [*START, *block("thinking_delta", "signature_delta"), *END],
    "one call": [*START, *block("input_json_delta"), *END],
    "a call without arguments": [*START, *block("input_json_delta"), *END],
    "parallel calls": [*START, *block("input_json_delta"), *block("input_json_delta"), *END],
    "blanks and a call": [*START, *block("input_json_delta"), *END],
    "nothing": [*START, *END],
    "blanks": [*START, *END],
}


def label(kind: str, data: dict[str, Any]) -> str:
    """An event's name, or the name of its delta."""
    assert data["type"] == kind
    return str(data["delta"]["type"]) if kind == "content_block_delta" else kind


@pytest.mark.parametrize("name", GOLDEN)
async def test_events_come_in_the_golden_order(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking(CASES[name].says)) as server:
        stream = await post(server.app, "/v1/messages", body(**CASES[name].fields, stream=True))

    told = [label(kind, data) for kind, data in events(stream.content)]
    assert [kind for kind, _ in groupby(told)] == GOLDEN[name]
    assert stream.is_complete
    assert stream.answer_headers["content-type"].startswith("text/event-stream")


async def test_each_block_ends_before_the_next_begins(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(CASES["all of it"].says)) as server:
        stream = await post(server.app, "/v1/messages", body(stream=True, thinking=ADAPTIVE))

    told = [(kind, data["index"]) for kind, data in events(stream.content) if "index" in data]
    blocks = [list(group) for _, group in groupby(told, key=lambda event: event[1])]
    assert [block[0] for block in blocks] == [("content_block_start", index) for index in range(6)]
    assert [block[-1] for block in blocks] == [("content_block_stop", index) for index in range(6)]
    assert {kind for block in blocks for kind, _ in block[1:-1]} == {"content_block_delta"}


async def test_long_arguments_come_in_pieces(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder, "PIECE_CHARACTERS", 4)
    arguments_first = (
        f'<tool_call>{{"arguments": {{"at": "{"é" * 10}"}}, "name": "look"}}</tool_call>'
    )
    async with running(speaking(arguments_first)) as server:
        stream = await post(server.app, "/v1/messages", body(stream=True))

    pieces = [
        data["delta"]["partial_json"]
        for kind, data in events(stream.content)
        if kind == "content_block_delta"
    ]
    assert [len(piece) for piece in pieces] == [4, 4, 4, 4, 4]
    assert json.loads("".join(pieces)) == {"at": "é" * 10}


async def test_blocks_begin_empty_and_end_signed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking(THOUGHT + "so" + call(at="x"))) as server:
        stream = await post(server.app, "/v1/messages", body(stream=True, thinking=ADAPTIVE))

    told = list(events(stream.content))
    begun = [data["content_block"] for kind, data in told if kind == "content_block_start"]
    assert begun[0] == {"type": "thinking", "thinking": "", "signature": ""}
    assert begun[1] == {"type": "text", "text": ""}
    assert begun[2] == {"type": "tool_use", "id": begun[2]["id"], "name": "look", "input": {}}
    deltas = [data["delta"]["type"] for kind, data in told if kind == "content_block_delta"]
    assert list(dict.fromkeys(deltas)) == [
        "thinking_delta",
        "signature_delta",
        "text_delta",
        "input_json_delta",
    ]


async def test_ids_and_signatures_are_like_no_others(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT + call() + call())) as server:
        answers = [
            (await post(server.app, "/v1/messages", body(thinking=ADAPTIVE))).json for _ in range(3)
        ]

    messages = [Message.model_validate(answer) for answer in answers]
    parts = [part for message in messages for part in message.content]
    assert len({message.id for message in messages}) == 3
    assert len({part.id for part in parts if part.type == "tool_use"}) == 6
    assert len({part.signature for part in parts if part.type == "thinking"}) == 3


@pytest.mark.parametrize(
    "name",
    [
        "text",
        "thinking",
        "thinking omitted",
        "parallel calls",
        "all of it",
        "nothing",
        "max_tokens",
        "a stop sequence",
    ],
)
async def test_the_sdks_stream_helper_accumulates_it(name: str) -> None:
    case = CASES[name]

    def read(port: int) -> Message:
        asked: Any = {key: value for key, value in body(**case.fields).items() if value is not None}
        asked |= {"messages": [{"role": "user", "content": "hi"}], "tools": [LOOK]}
        with (
            anthropic.Anthropic(
                base_url=f"http://127.0.0.1:{port}", api_key="x", max_retries=0
            ) as client,
            client.messages.stream(**asked) as stream,
        ):
            heard = "".join(stream.text_stream)
            message = stream.get_final_message()
        assert heard == "".join(part.text for part in message.content if part.type == "text")
        return message

    async with listening(speaking(case.says)) as port:
        message = await trio.to_thread.run_sync(read, port)

    assert case.told(message) == case.content
    assert (message.stop_reason, message.stop_sequence) == case.stop


FAILURES: dict[str, Callable[[FakeRunner], bool]] = {
    "before content": lambda runner: len(runner.plans) == 1,
    "in the middle": lambda runner: len(runner.plans) == 6,
}


@pytest.mark.parametrize("fails_when", FAILURES.values(), ids=FAILURES)
async def test_a_stream_that_fails_says_so_and_never_ends_cleanly(
    fails_when: Callable[[FakeRunner], bool], autojump_clock: trio.testing.MockClock
) -> None:
    def fails(plan: object) -> None:
        if fails_when(server.runner):
            raise RuntimeError("on fire")

    async with running(speaking("hello")) as server:
        server.runner.before_step = fails
        stream = await post(server.app, "/v1/messages", body(stream=True))

    kind, data = list(events(stream.content))[-1]
    assert kind == "error"
    assert data["error"]["type"] == "api_error"
    assert data["request_id"] == stream.answer_headers["request-id"]
    assert not stream.is_complete
