"""Answers that go on with the assistant's last message, over HTTP."""

from typing import Any

import pytest
import trio.testing

from semantic_trio.testing import FakeRunner
from tests.http.messages import accumulated, speaking
from tests.http.serving import Served, anthropic_body, openai_body, post, running, served

QUESTION = {"role": "user", "content": "What is the capital of France?"}
BEGUN = {"role": "assistant", "content": "The capital of France is"}
CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}
PERSON = {"type": "object", "properties": {}}


async def by_messages(server: Served, *messages: dict[str, Any], **fields: Any) -> Any:
    """The answer of the Messages API."""
    call = await post(
        server.app,
        "/v1/messages",
        anthropic_body(messages=messages, **{"max_tokens": 1000, **fields}),
    )
    assert call.status == 200, call.content
    return call.json


async def by_chat(server: Served, *messages: dict[str, Any], **fields: Any) -> Any:
    """The answer of Chat Completions."""
    call = await post(
        server.app,
        "/v1/chat/completions",
        openai_body(messages=messages, **{"max_tokens": 1000, **fields}),
    )
    assert call.status == 200, call.content
    return call.json


async def test_messages_goes_on_with_the_assistant_s_last_message(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(" Paris.")) as server:
        answer = await by_messages(server, QUESTION, BEGUN)
        counted = await post(
            server.app, "/v1/messages/count_tokens", anthropic_body(messages=[QUESTION, BEGUN])
        )

    assert [block["text"] for block in answer["content"]] == [" Paris."]
    assert answer["usage"]["input_tokens"] == len(
        f"user:{QUESTION['content']}\nassistant:{BEGUN['content']}"
    )
    assert counted.json["input_tokens"] == answer["usage"]["input_tokens"]


async def test_a_stream_goes_on_too(autojump_clock: trio.testing.MockClock) -> None:
    begun = {
        **BEGUN,
        "content": [
            {
                "type": "text",
                "text": "The capital of France is ",
                "cache_control": {"type": "ephemeral"},
            }
        ],
    }
    async with running(speaking(" Paris.")) as server:
        call = await post(
            server.app,
            "/v1/messages",
            anthropic_body(messages=[QUESTION, begun], stream=True, max_tokens=1000),
        )

    message = accumulated(call.content)
    assert message.content[0].text == "Paris."  # type: ignore[union-attr]
    assert message.usage.input_tokens + (message.usage.cache_creation_input_tokens or 0) == len(
        f"user:{QUESTION['content']}\nassistant:{BEGUN['content']}"
    )


async def test_chat_goes_on_where_that_is_demanded(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking(" Paris.")) as server:
        on = await by_chat(server, QUESTION, BEGUN, **CONTINUE)
        anew = await by_chat(server, QUESTION, BEGUN)

    begun = f"user:{QUESTION['content']}\nassistant:{BEGUN['content']}"
    assert on["choices"][0]["message"]["content"] == " Paris."
    assert on["usage"]["prompt_tokens"] == len(begun)
    assert anew["usage"]["prompt_tokens"] == len(f"{begun}\nassistant:")


@pytest.mark.parametrize("ending", ["", " "])
async def test_the_turn_after_begins_with_all_that_was_said(
    ending: str, autojump_clock: trio.testing.MockClock
) -> None:
    begun = {**BEGUN, "content": BEGUN["content"] + ending}
    async with running(speaking(" Paris.")) as server:
        first = await by_chat(server, QUESTION, begun, **CONTINUE)
        said = {
            "role": "assistant",
            "content": begun["content"] + first["choices"][0]["message"]["content"],
        }
        second = await by_chat(server, QUESTION, said, {"role": "user", "content": "And of Spain?"})

    assert said["content"] == "The capital of France is Paris."
    assert (
        second["usage"]["prompt_tokens_details"]["cached_tokens"]
        >= first["usage"]["total_tokens"] - 1
    )


async def test_an_answer_that_was_cut_off_goes_on_where_it_ended(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Paris is the capital.")) as server:
        cut = await by_messages(server, QUESTION, max_tokens=8)
        said = {"role": "assistant", "content": cut["content"]}
        on = await by_messages(server, QUESTION, said)

    assert on["usage"]["cache_read_input_tokens"] >= cut["usage"]["input_tokens"] + 8 - 1


async def test_a_demanded_call_is_a_turn_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    tools = [{"name": "look", "input_schema": {"type": "object", "properties": {}}}]
    async with running(served(FakeRunner())) as server:
        answer = await by_messages(
            server, QUESTION, BEGUN, tools=tools, tool_choice={"type": "any"}
        )

    assert [block["type"] for block in answer["content"]] == ["tool_use"]


REFUSED: list[tuple[list[dict[str, Any]], dict[str, Any], str]] = [
    ([QUESTION], {"continue_final_message": True}, "continue_final_message"),
    (
        [QUESTION, BEGUN],
        {"continue_final_message": True, "add_generation_prompt": True},
        "add_generation_prompt",
    ),
    ([QUESTION, BEGUN], {"add_generation_prompt": False}, "add_generation_prompt"),
    (
        [QUESTION, BEGUN],
        {"continue_final_message": True, "response_format": {"type": "json_object"}},
        "continue_final_message",
    ),
    (
        [QUESTION, {**BEGUN, "tool_calls": [{"id": "c", "function": {"name": "f"}}]}],
        {"continue_final_message": True},
        "continue_final_message",
    ),
]


@pytest.mark.parametrize(("messages", "fields", "field"), REFUSED)
async def test_what_cannot_be_gone_on_with_is_refused_by_name(
    messages: list[dict[str, Any]],
    fields: dict[str, Any],
    field: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("no")) as server:
        call = await post(
            server.app, "/v1/chat/completions", openai_body(messages=messages, **fields)
        )

    error: Any = call.json["error"]
    assert (call.status, error["param"]) == (400, field)


async def test_messages_refuses_a_form_that_goes_on(autojump_clock: trio.testing.MockClock) -> None:
    form = {"format": {"type": "json_schema", "schema": PERSON}}
    async with running(speaking("no")) as server:
        call = await post(
            server.app,
            "/v1/messages",
            anthropic_body(messages=[QUESTION, BEGUN], output_config=form),
        )

    error: Any = call.json["error"]
    assert call.status == 400
    assert error["message"].startswith("messages: ")
