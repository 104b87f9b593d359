"""All that a client of Chat Completions may ask for beside an answer."""

import json
import threading
from typing import Any

import pytest
import trio.testing
from openai.types.chat import ChatCompletion, ChatCompletionChunk

import semantic_trio.adapters.http.serving.served_model
from semantic_trio.adapters.http.serving.dedicated_threads import DedicatedThreads
from semantic_trio.domain.conversation import Conversation
from semantic_trio.testing import ByteCodec, FakeRunner
from semantic_trio.testing.grammar import OneAnswer
from tests.http.serving import Served, openai_body, post, running, served
from tests.http.test_chat import chunks

LOOK = {"type": "object", "properties": {"at": {"enum": ["sea"]}}, "required": ["at"]}
TOOLS = [
    {"type": "function", "function": {"name": "look", "description": "Look.", "parameters": LOOK}},
    {
        "type": "function",
        "function": {
            "name": "wait",
            "parameters": {"type": "object", "properties": {}},
            "strict": True,
        },
    },
]
CUSTOM = {
    "type": "custom",
    "custom": {"name": "note", "description": "Write down.", "format": {"type": "text"}},
}
FIELDS = {"name": {"type": "string", "minLength": 2}, "age": {"type": "integer", "minimum": 7}}
PERSON = {"type": "object", "properties": FIELDS, "required": ["name", "age"]}
STRICT_PERSON = {
    "type": "json_schema",
    "json_schema": {"name": "person", "schema": PERSON, "strict": True},
}


async def said(server: Served, **fields: Any) -> ChatCompletion:
    """A whole completion, as the SDK reads it."""
    call = await post(
        server.app, "/v1/chat/completions", openai_body(**{"temperature": 0, **fields})
    )
    assert call.status == 200, call.content
    return ChatCompletion.model_validate(call.json)


async def streamed(server: Served, **fields: Any) -> list[ChatCompletionChunk]:
    """The chunks of one."""
    asked = {"temperature": 0, "stream": True, "stream_options": {"include_usage": True}, **fields}
    return chunks((await post(server.app, "/v1/chat/completions", openai_body(**asked))).content)


async def refused(server: Served, **fields: Any) -> dict[str, Any]:
    """What is told of a request that is wrong."""
    call = await post(server.app, "/v1/chat/completions", openai_body(**fields))
    assert call.status == 400, call.content
    error: Any = call.json["error"]
    assert isinstance(error, dict)
    return error


async def test_several_answers_share_the_prompt_and_differ(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        whole = await said(server, n=3, seed=5, temperature=1, max_tokens=12)
        alone = [
            await said(server, seed=5 + number, temperature=1, max_tokens=12) for number in range(3)
        ]
        pieces = await streamed(server, n=3, seed=5, temperature=1, max_tokens=12)

    texts = [choice.message.content for choice in whole.choices]
    assert [choice.index for choice in whole.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert texts == [one.choices[0].message.content for one in alone]
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 36
    assert whole.usage.prompt_tokens == alone[0].usage.prompt_tokens  # type: ignore[union-attr]
    told = [
        "".join(c.delta.content or "" for p in pieces for c in p.choices if c.index == index)
        for index in range(3)
    ]
    assert told == texts
    assert [
        sum(c.finish_reason is not None for p in pieces for c in p.choices if c.index == index)
        for index in range(3)
    ] == [1, 1, 1]
    assert pieces[-1].usage is not None
    assert pieces[-1].usage.completion_tokens == 36


async def test_what_is_told_of_tokens_is_what_was_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(end_after=9))) as server:
        whole = await said(server, logprobs=True, top_logprobs=4, max_tokens=20)
        pieces = await streamed(server, logprobs=True, top_logprobs=4, max_tokens=20)
        plain = await said(server, logprobs=True)
        silent = await said(server)

    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert "".join(token.token for token in logprobs.content) == whole.choices[0].message.content
    assert all(bytes(token.bytes or []).decode() == token.token for token in logprobs.content)
    assert all(len(token.top_logprobs) == 4 for token in logprobs.content)
    assert all(token.logprob <= 0 for token in logprobs.content)
    told = [
        token for p in pieces for c in p.choices if c.logprobs for token in c.logprobs.content or []
    ]
    assert [token.model_dump() for token in told] == [
        token.model_dump() for token in logprobs.content
    ]
    assert plain.choices[0].logprobs is not None
    assert all(token.top_logprobs == [] for token in plain.choices[0].logprobs.content or [])
    assert silent.choices[0].logprobs is None


async def test_a_bias_decides_and_a_penalty_counts(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        pushed = await said(server, logit_bias={str(ord("q")): 100}, max_tokens=4)
        tired = await said(
            server,
            logit_bias={str(ord("q")): 3, str(ord("r")): 2.5},
            frequency_penalty=2,
            max_tokens=2,
        )

    assert pushed.choices[0].message.content == "qqqq"
    assert tired.choices[0].message.content == "qr"


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "look"}}])
async def test_a_call_that_is_demanded_comes(
    choice: object, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        whole = await said(server, tools=TOOLS, tool_choice=choice, max_tokens=200)
        pieces = await streamed(server, tools=TOOLS, tool_choice=choice, max_tokens=200)

    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert (call.function.name, json.loads(call.function.arguments)) == ("look", {"at": "sea"})
    assert whole.choices[0].finish_reason == "tool_calls"
    told = [one for p in pieces for c in p.choices for one in c.delta.tool_calls or []]
    functions = [one.function for one in told if one.function is not None]
    assert {one.index for one in told} == {0}
    assert [function.name for function in functions] == ["look", *[None] * (len(told) - 1)]
    assert "".join(function.arguments or "" for function in functions) == call.function.arguments


async def test_only_allowed_tools_are_called(autojump_clock: trio.testing.MockClock) -> None:
    allowed = {
        "type": "allowed_tools",
        "allowed_tools": {
            "mode": "required",
            "tools": [{"type": "function", "function": {"name": "wait"}}],
        },
    }
    async with running(served(FakeRunner())) as server:
        whole = await said(server, tools=TOOLS, tool_choice=allowed, max_tokens=200)

    [call] = whole.choices[0].message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "wait"


async def test_a_tool_that_takes_text_is_called_with_text_and_remembered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    named = {"type": "custom", "custom": {"name": "note"}}
    async with running(served(FakeRunner())) as server:
        asked: dict[str, Any] = {
            "tools": [CUSTOM],
            "messages": [{"role": "user", "content": "Note it."}],
            "max_tokens": 200,
        }
        whole = await said(server, **asked, tool_choice=named)
        message = whole.choices[0].message
        [call] = message.tool_calls or []
        results = [{"role": "tool", "tool_call_id": call.id, "content": "noted"}]
        again = {
            **asked,
            "messages": [*asked["messages"], message.model_dump(exclude_none=True), *results],
        }
        second = await said(server, **again)

    assert call.type == "custom"
    assert (call.custom.name, call.custom.input) == ("note", "")
    assert whole.usage is not None
    assert second.usage is not None
    assert second.usage.prompt_tokens_details is not None
    assert (second.usage.prompt_tokens_details.cached_tokens or 0) >= whole.usage.total_tokens - 1


@pytest.mark.parametrize("form", [{"type": "json_object"}, STRICT_PERSON])
async def test_an_answer_has_the_form_that_is_demanded(
    form: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        whole = await said(server, response_format=form, max_tokens=200)

    assert json.loads(whole.choices[0].message.content or "") == (
        {"name": "aa", "age": 7} if "json_schema" in form else {}
    )
    assert whole.choices[0].finish_reason == "stop"


async def test_an_answer_that_is_cut_off_says_so(autojump_clock: trio.testing.MockClock) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON}}
    async with running(served(FakeRunner())) as server:
        whole = await said(server, response_format=form, max_tokens=5)
    assert whole.choices[0].finish_reason == "length"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 1000}}, "logit_bias"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"frequency_penalty": 3}, "frequency_penalty"),
        ({"presence_penalty": "much"}, "presence_penalty"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a b"}}},
            "response_format",
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "fly"}}},
            "tool_choice",
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {
                    "type": "allowed_tools",
                    "allowed_tools": {"mode": "required", "tools": []},
                },
            },
            "tool_choice",
        ),
        ({"messages": [{"role": "user", "content": [{"type": 3}]}]}, "messages.0.content.0.type"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            "messages.0.content.0.text",
        ),
        ({"reasoning_effort": 5}, "reasoning_effort"),
    ],
)
async def test_what_is_wrong_is_named(
    fields: dict[str, Any], where: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        error = await refused(server, **fields)
    assert error["type"] == "invalid_request_error"
    assert (error["param"] or "").startswith(where)


async def test_what_means_nothing_here_is_taken(autojump_clock: trio.testing.MockClock) -> None:
    ignored = {
        "store": True,
        "metadata": {"a": "b"},
        "service_tier": "auto",
        "verbosity": "low",
        "modalities": ["text"],
        "user": "me",
        "prediction": None,
    }
    other = [
        TOOLS[0],
        {"type": "web_search"},
        {"type": "namespace", "name": "n", "tools": []},
        {"type": "function", "function": {"name": ""}},
    ]
    async with running(served(FakeRunner())) as server:
        whole = await said(server, tools=other, **ignored)
    assert whole.choices[0].message.content


class SlowCodec(ByteCodec):
    """Needs longer for a form than anybody waits."""

    done = threading.Event()

    def grammar(self, conversation: Conversation, opening: str) -> OneAnswer | None:
        self.done.wait(10)
        return None


async def test_a_form_that_takes_too_long_is_refused_and_holds_up_nobody(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(semantic_trio.adapters.http.serving.served_model, "COMPILE_SECONDS", 0.05)
    async with running(
        served(FakeRunner(), codec=SlowCodec(), compilers=DedicatedThreads(1))
    ) as server:
        error = await refused(server, response_format={"type": "json_object"})
        plain = await said(server)
        SlowCodec.done.set()

    assert error["code"] == "grammar_too_complex"
    assert plain.choices[0].message.content
