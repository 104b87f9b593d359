"""Calls on the wire while they are written: whole and streamed answers say the same, and no client
takes a cut call for a whole one.
"""

import json
from collections.abc import Callable
from itertools import groupby
from typing import Any

import anthropic
import attrs
import openai
import pytest
import trio
import trio.testing
from anthropic.types import Message
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from openai.types.responses import Response

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from tests.http.messages import LOOK, Speaker, accumulated, body, call, events, speaking
from tests.http.responses import CALL as SKY
from tests.http.responses import LOOK as RESPONSES_LOOK
from tests.http.responses import PATCH, respond, stream
from tests.http.serving import Served, listening, openai_body, post, running, served
from tests.http.test_chat import chunks, lines

FUNCTION = {"type": "function", "function": {"name": "look", "parameters": LOOK["input_schema"]}}
LONG = "def f():\n\treturn 'é😀'\n" * 8
WRITTEN = call(at=LONG)
HALF = call(at="sea", deep=True)[:-20]  # up to within the name of the second argument
MALFORMED = '<tool_call>{"name": "look", "arguments": {"at": "sea" or "sky"}}</tool_call>And more.'


@attrs.frozen
class Told:
    """What a client knows of an answer."""

    text: str
    calls: list[tuple[str, str]]  # names and arguments
    reason: str
    deltas: int  # events with arguments


async def messages(server: Served, *, is_streamed: bool, **fields: object) -> Told:
    """An answer of the Messages API."""
    answer = await post(server.app, "/v1/messages", body(**fields, stream=is_streamed))
    if not is_streamed:
        message = Message.model_validate(answer.json, strict=True)
        calls = [
            (part.name, json.dumps(part.input, ensure_ascii=False))
            for part in message.content
            if part.type == "tool_use"
        ]
        return Told(_text(message), calls, str(message.stop_reason), 0)
    names, pieces = dict[int, str](), dict[int, list[str]]()
    for kind, data in events(answer.content):
        if kind == "content_block_start" and data["content_block"]["type"] == "tool_use":
            names[data["index"]], pieces[data["index"]] = data["content_block"]["name"], []
        elif kind == "content_block_delta" and data["delta"]["type"] == "input_json_delta":
            pieces[data["index"]].append(data["delta"]["partial_json"])
    message = accumulated(answer.content)
    return Told(
        _text(message),
        [(names[at], "".join(pieces[at])) for at in names],
        str(message.stop_reason),
        sum(map(len, pieces.values())),
    )


def _text(message: Message) -> str:
    return "".join(part.text for part in message.content if part.type == "text")


async def chat(server: Served, *, is_streamed: bool, **fields: object) -> Told:
    """An answer of Chat Completions."""
    given = openai_body(
        **{"tools": [FUNCTION], "max_tokens": 10_000, **_in_openais_words(fields)},
        stream=is_streamed,
    )
    answer = await post(server.app, "/v1/chat/completions", given)
    if not is_streamed:
        [choice] = ChatCompletion.model_validate(answer.json).choices
        calls = [
            (one.function.name, one.function.arguments)
            for one in choice.message.tool_calls or []
            if one.type == "function"
        ]
        return Told(choice.message.content or "", calls, choice.finish_reason, 0)
    choices = [choice for chunk in chunks(answer.content) for choice in chunk.choices]
    pieces = [piece for choice in choices for piece in choice.delta.tool_calls or []]
    names = [
        (piece.index, piece.id, piece.function.name)
        for piece in pieces
        if piece.function and piece.function.name
    ]
    assert [at for at, _, _ in names] == list(range(len(names)))
    assert all(made for _, made, _ in names)
    written = [
        "".join(
            piece.function.arguments or ""
            for piece in pieces
            if piece.function and piece.index == at
        )
        for at in range(len(names))
    ]
    text = "".join(choice.delta.content or "" for choice in choices)
    return Told(
        text,
        [(name, written[at]) for at, _, name in names],
        str(choices[-1].finish_reason),
        len(pieces),
    )


def _in_openais_words(fields: dict[str, object]) -> dict[str, object]:
    return {{"stop_sequences": "stop"}.get(name, name): value for name, value in fields.items()}


async def responses(server: Served, *, is_streamed: bool, **fields: object) -> Told:
    """An answer of Responses, which knows no stop strings."""
    given = {
        "tools": [RESPONSES_LOOK],
        **{
            {"max_tokens": "max_output_tokens"}.get(name, name): value
            for name, value in fields.items()
        },
    }
    told = await stream(server, **given) if is_streamed else []
    response: Response = told[-1].response if told else await respond(server, **given)
    calls = [item for item in response.output if item.type == "function_call"]
    deltas = [event for event in told if event.type == "response.function_call_arguments.delta"]
    for one in calls:
        if told:
            assert (
                "".join(event.delta for event in deltas if event.item_id == one.id) == one.arguments
            )
            assert [
                event.arguments
                for event in told
                if event.type == "response.function_call_arguments.done" and event.item_id == one.id
            ] == [one.arguments]
            assert [
                event.item
                for event in told
                if event.type == "response.output_item.done" and event.item.id == one.id
            ] == [one]
        assert one.status == ("completed" if _is_json(one.arguments) else "incomplete")
    reason = response.incomplete_details.reason if response.incomplete_details else None
    return Told(
        response.output_text,
        [(one.name, one.arguments) for one in calls],
        str(reason or response.status),
        len(deltas),
    )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


Ask = Callable[..., Any]
# How each protocol says: it wants results; it was cut off.
PROTOCOLS: dict[str, tuple[Ask, str, str]] = {
    "messages": (messages, "tool_use", "max_tokens"),
    "chat": (chat, "tool_calls", "length"),
    "responses": (responses, "completed", "max_output_tokens"),
}


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_long_call_comes_in_many_deltas_that_are_the_whole_call(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    ask, wants_results, _ = PROTOCOLS[protocol]
    slow = Speaker(says=f"I write.{WRITTEN}", seconds_per_step=0.01)
    async with running(served(slow)) as server:
        whole, told = await ask(server, is_streamed=False), await ask(server, is_streamed=True)

    assert told.calls == whole.calls == [("look", json.dumps({"at": LONG}, ensure_ascii=False))]
    assert told.text == whole.text == "I write."
    assert told.reason == whole.reason == wants_results
    assert told.deltas > len(LONG) // 2


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_parallel_calls_come_one_after_the_other(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    ask, wants_results, _ = PROTOCOLS[protocol]
    async with running(speaking(call(at="x") + "And:" + call() + call(at="y"))) as server:
        whole, told = await ask(server, is_streamed=False), await ask(server, is_streamed=True)

    assert (
        told.calls
        == whole.calls
        == [("look", '{"at": "x"}'), ("look", "{}"), ("look", '{"at": "y"}')]
    )
    assert told.text == whole.text == "And:"
    assert told.reason == whole.reason == wants_results


@pytest.mark.parametrize("way", ["max_tokens", "end of turn", "malformed"])
@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_call_that_is_not_whole_ends_the_answer_as_one_that_was_cut(
    protocol: str, way: str, autojump_clock: trio.testing.MockClock
) -> None:
    """In a whole answer of the Messages API it is text: there an input is an object, which could be
    taken for a whole one.
    """
    ask, _, cut_off = PROTOCOLS[protocol]
    fields: dict[str, object] = {"max_tokens": len(HALF)} if way == "max_tokens" else {}
    says = {"max_tokens": call(at="sea", deep=True), "end of turn": HALF, "malformed": MALFORMED}[
        way
    ]
    async with running(speaking(says)) as server:
        whole, told = (
            await ask(server, is_streamed=False, **fields),
            await ask(server, is_streamed=True, **fields),
        )

    assert told.calls == [("look", '{"at": "sea"')]
    assert told.text == ""
    assert told.reason == whole.reason == cut_off
    if protocol == "messages":
        assert (whole.text, whole.calls) == (
            says[: len(HALF)] if way == "max_tokens" else says.removesuffix("And more."),
            [],
        )
    else:
        assert (whole.text, whole.calls) == (told.text, told.calls)


@pytest.mark.parametrize("protocol", ["messages", "chat"])
async def test_a_stop_string_within_a_call_cuts_it(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    ask, _, cut_off = PROTOCOLS[protocol]
    async with running(speaking(call(at="sea", deep="STOP"))) as server:
        whole, told = [
            await ask(server, is_streamed=is_streamed, stop_sequences=["STOP"])
            for is_streamed in (False, True)
        ]

    assert told.calls == [("look", '{"at": "sea", "deep": "')]
    assert told.reason == whole.reason == cut_off


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_follows_a_malformed_call_of_which_nothing_was_told_is_still_read(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    ask, wants_results, _ = PROTOCOLS[protocol]
    malformed = '<tool_call>{"name": "look", "arguments": [1]}</tool_call>'
    async with running(speaking(malformed + call(at="x"))) as server:
        whole, told = await ask(server, is_streamed=False), await ask(server, is_streamed=True)

    assert told.calls == whole.calls == [("look", '{"at": "x"}')]
    assert told.text == whole.text == malformed
    assert told.reason == whole.reason == wants_results


async def test_the_events_of_a_cut_call_are_those_of_a_call(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(HALF)) as server:
        answer = await post(server.app, "/v1/messages", body(stream=True))
        told = await stream(server, tools=[RESPONSES_LOOK])

    kinds = [
        data["delta"].get("type", kind) if kind == "content_block_delta" else kind
        for kind, data in events(answer.content)
    ]
    assert [kind for kind, _ in groupby(kinds)] == [
        "message_start",
        "ping",
        "content_block_start",
        "input_json_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert [kind for kind, _ in groupby(event.type for event in told)] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert [item.status for item in told[-1].response.output] == ["incomplete"]


async def test_a_tool_that_takes_text_is_told_whole_or_is_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its text would look whole wherever it is cut."""
    written = '<tool_call>{"name": "patch", "arguments": {"input": "a\\nb"}}</tool_call>'
    custom = {"type": "custom", "custom": {"name": "patch"}}
    for says in (written, written[:-20]):
        async with running(speaking(says)) as server:
            told = await stream(server, tools=[PATCH])
            plain = await respond(server, tools=[PATCH])
            answer = await post(
                server.app,
                "/v1/chat/completions",
                openai_body(tools=[custom], max_tokens=200, stream=True),
            )
            whole = ChatCompletion.model_validate(
                (
                    await post(
                        server.app,
                        "/v1/chat/completions",
                        openai_body(tools=[custom], max_tokens=200),
                    )
                ).json
            )

        is_whole = says == written
        text = "" if is_whole else says
        assert (
            told[-1].response.output_text
            == plain.output_text
            == (whole.choices[0].message.content or "")
            == text
        )
        # the SDK has no type for these
        deltas = [json.loads(line)["choices"][0]["delta"] for line in lines(answer.content)[:-1]]
        assert "".join(delta.get("content", "") for delta in deltas) == text
        assert (
            len([event for event in told if event.type == "response.custom_tool_call_input.delta"])
            == is_whole
        )
        assert bool(whole.choices[0].message.tool_calls) == is_whole
        assert [
            one["custom"]["input"] for delta in deltas for one in delta.get("tool_calls", [])
        ] == ["a\nb"] * is_whole
        assert whole.choices[0].finish_reason == ("tool_calls" if is_whole else "length")


async def test_an_agent_is_told_calls_whole_and_what_is_none_as_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked = {"message": "hi", "tools": [FUNCTION], "max_tokens": 5000}
    for says, kind in ((WRITTEN, "call"), (HALF, "token")):
        async with running(speaking(says)) as server:
            await post(server.app, "/v1/agents", {"id": "a", "tools": [FUNCTION]})
            streamed = await post(server.app, "/v1/agents/a/generate", {**asked, "stream": True})
            plain = await post(server.app, "/v1/agents/a/generate", asked)

        told = [
            (name, data)
            for name, data in events(streamed.content)
            if name not in {"start", "end", "ping"}
        ]
        assert [name for name, _ in told] == [kind]
        answer: Any = plain.json
        assert (answer["text"] or answer["tool_calls"]) == (
            says if kind == "token" else [{**told[0][1], "id": answer["tool_calls"][0]["id"]}]
        )
        assert answer["finish_reason"] == ("broken_call" if kind == "token" else "end_of_turn")


async def test_a_client_that_is_told_nothing_for_a_while_is_told_that_it_waits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Thoughts that are not wanted, and the text of custom tools, are nothing to a client while
    they are written.
    """
    runner = Speaker(says=f"<think>{'hm' * 20}</think>so", seconds_per_step=0.2)
    async with running(served(runner, HttpSettings(ping_seconds=1))) as server:
        answer = await post(server.app, "/v1/messages", body(stream=True))

    pings = [kind for kind, _ in events(answer.content)].count("ping")
    assert 5 < pings < 20, "one a second, and not one for each token"


@pytest.mark.parametrize("protocol", ["messages", "chat"])
async def test_the_turn_after_a_streamed_call_begins_with_all_of_it(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking(WRITTEN)) as server:
        if protocol == "messages":
            first = accumulated((await post(server.app, "/v1/messages", body(stream=True))).content)
            [use] = first.content
            assert use.type == "tool_use"
            result = {"type": "tool_result", "tool_use_id": use.id, "content": "done"}
            said = [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": [use.to_dict()]},
                {"role": "user", "content": [result]},
            ]
            usage = Message.model_validate(
                (await post(server.app, "/v1/messages", body(messages=said))).json
            ).usage
            reused = usage.cache_read_input_tokens or 0
        else:
            asked = {"tools": [FUNCTION], "max_tokens": 10_000}
            pieces = chunks(
                (
                    await post(
                        server.app, "/v1/chat/completions", openai_body(**asked, stream=True)
                    )
                ).content
            )
            deltas = [
                one
                for chunk in pieces
                for choice in chunk.choices
                for one in choice.delta.tool_calls or []
            ]
            arguments = "".join(one.function.arguments or "" for one in deltas if one.function)
            calls = [
                {
                    "id": deltas[0].id,
                    "type": "function",
                    "function": {"name": "look", "arguments": arguments},
                }
            ]
            said = [
                {"role": "user", "content": "hi"},
                {"role": "assistant", "content": None, "tool_calls": calls},
                {"role": "tool", "tool_call_id": deltas[0].id, "content": "done"},
            ]
            answer = await post(
                server.app, "/v1/chat/completions", openai_body(**asked, messages=said)
            )
            details = ChatCompletion.model_validate(answer.json).usage
            assert details is not None
            assert details.prompt_tokens_details is not None
            reused = details.prompt_tokens_details.cached_tokens or 0

    assert reused >= len(WRITTEN.encode())


async def test_both_sdks_accumulate_a_streamed_call() -> None:
    def talk(port: int) -> None:
        with anthropic.Anthropic(
            base_url=f"http://127.0.0.1:{port}", api_key="x", max_retries=0
        ) as client:
            tool: anthropic.types.ToolParam = {"name": "look", "input_schema": {"type": "object"}}
            asked: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]
            with client.messages.stream(
                model="org/tiny", max_tokens=5000, messages=asked, tools=[tool]
            ) as stream:
                partial = "".join(
                    event.partial_json for event in stream if event.type == "input_json"
                )
                [use] = stream.get_final_message().content
        assert use.type == "tool_use"
        assert use.input == {"at": "sky"}
        assert json.loads(partial) == use.input
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0
        ) as others:
            said: list[ChatCompletionMessageParam] = [{"role": "user", "content": "hi"}]
            function: Any = FUNCTION
            with others.chat.completions.stream(
                model="org/tiny", max_tokens=5000, messages=said, tools=[function]
            ) as completion:
                deltas = "".join(
                    event.arguments_delta
                    for event in completion
                    if event.type == "tool_calls.function.arguments.delta"
                )
                [called] = completion.get_final_completion().choices[0].message.tool_calls or []
            tools: Any = [RESPONSES_LOOK]
            with others.responses.stream(model="org/tiny", input="hi", tools=tools) as response:
                more = "".join(
                    event.delta
                    for event in response
                    if event.type == "response.function_call_arguments.delta"
                )
                output = response.get_final_response().output
        assert called.type == "function"
        assert called.function.arguments == deltas == '{"at": "sky"}'
        assert output[-1].type == "function_call"
        assert output[-1].arguments == more == '{"at": "sky"}'

    async with listening(speaking(SKY)) as port:
        await trio.to_thread.run_sync(talk, port)
