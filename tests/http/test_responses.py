"""The Responses API as its clients read it."""

import itertools
import json
from typing import Any

import openai
import pydantic
import pytest
import trio
import trio.testing
from openai.types.responses import Response, ResponseFunctionToolCall, ResponseReasoningItem

from semantic_trio.domain.responses import verify
from semantic_trio.testing import FakeRunner
from tests.http.messages import speaking
from tests.http.responses import (
    CALL,
    LOOK,
    PATCH,
    PATH,
    THOUGHT_AND_CALL,
    body,
    cached,
    echoed,
    respond,
    server_delete,
    stream,
)
from tests.http.serving import listening, post, running, served

OPENED = ["response.created", "response.in_progress"]


THOUGHT = [
    "response.output_item.added",
    "response.content_part.added",
    "response.reasoning_text.delta",
    "response.reasoning_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


CALLED = [
    "response.output_item.added",
    "response.function_call_arguments.delta",
    "response.function_call_arguments.done",
    "response.output_item.done",
]


SPOKEN = [
    "response.output_item.added",
    "response.content_part.added",
    "response.output_text.delta",
    "response.output_text.done",
    "response.content_part.done",
    "response.output_item.done",
]


def sequence(told: list[Any]) -> list[str]:
    """Names of events in order; deltas that follow each other may as well be one."""
    return [name for name, _ in itertools.groupby(event.type for event in told)]


# ------------------------------------------------------------------------------------------ answers


async def test_a_stream_of_text_is_the_golden_sequence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        told = await stream(server)

    assert sequence(told) == [*OPENED, *SPOKEN, "response.completed"]
    assert [event.sequence_number for event in told] == list(range(len(told)))
    assert (
        "".join(event.delta for event in told if event.type == "response.output_text.delta")
        == "Yes."
    )
    assert told[0].response.status == told[1].response.status == "in_progress"
    assert told[-1].response.status == "completed"
    assert told[-1].response.output_text == "Yes."


async def test_a_stream_of_thought_text_and_call_is_the_golden_sequence(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT_AND_CALL)) as server:
        told = await stream(server, tools=[LOOK])

    assert sequence(told) == [*OPENED, *THOUGHT, *SPOKEN, *CALLED, "response.completed"]
    done = [event for event in told if event.type == "response.output_item.done"]
    added = [event for event in told if event.type == "response.output_item.added"]
    assert [event.output_index for event in done] == [0, 1, 2]
    assert [event.item for event in done] == told[-1].response.output
    assert [event.item.id for event in added] == [event.item.id for event in done]
    assert [event.item.status for event in added] == ["in_progress"] * 3
    assert added[2].item.arguments == ""
    assert done[0].item.content[0].text == "I look."
    assert json.loads(done[2].item.arguments) == {"at": "sky"}


async def test_what_is_told_of_an_item_in_pieces_is_what_it_is_in_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT_AND_CALL)) as server:
        told = await stream(server, tools=[LOOK])

    said = {event.item_id: "" for event in told if event.type.endswith(".delta")}
    for event in told:
        if event.type.endswith(".delta"):
            said[event.item_id] += event.delta
    thought, text, call = told[-1].response.output
    assert said == {
        thought.id: thought.content[0].text,
        text.id: text.content[0].text,
        call.id: call.arguments,
    }


async def test_a_plain_answer_is_what_the_stream_ends_with(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT_AND_CALL)) as server:
        await respond(server, tools=[LOOK])  # the other two find the same remembered
        plain = await respond(server, tools=[LOOK])
        final = (await stream(server, tools=[LOOK]))[-1].response

    ids = {"id", "call_id", "created_at", "completed_at"}
    kept = [one.model_dump(exclude=ids) for one in (plain, final)]
    for one in kept:
        for item in one["output"]:
            for name in ids:
                item.pop(name, None)
    assert kept[0] == kept[1]
    assert [item.type for item in plain.output] == ["reasoning", "message", "function_call"]
    assert plain.usage is not None
    assert plain.usage.total_tokens == plain.usage.input_tokens + plain.usage.output_tokens
    assert plain.usage.output_tokens_details.reasoning_tokens > 0


async def test_an_answer_that_is_cut_off_is_incomplete(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes, and more.")) as server:
        plain = await respond(server, max_output_tokens=3)
        told = await stream(server, max_output_tokens=3)

    assert told[-1].type == "response.incomplete"
    for response in (plain, told[-1].response):
        assert response.status == "incomplete"
        assert response.incomplete_details is not None
        assert response.incomplete_details.reason == "max_output_tokens"
        assert [item.status for item in response.output] == ["incomplete"]
        assert response.output_text == "Yes"


async def test_a_text_of_blanks_is_no_item(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking(f"\n\n{CALL}\n\n")) as server:
        plain = await respond(server, tools=[LOOK])
        told = await stream(server, tools=[LOOK])

    assert [item.type for item in plain.output] == ["function_call"]
    assert sequence(told) == [*OPENED, *CALLED, "response.completed"]


async def test_a_tool_that_takes_text_is_called_with_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    said = '<tool_call>\n{"name": "patch", "arguments": {"input": "a\\nb"}}\n</tool_call>'
    async with running(speaking(said)) as server:
        told = await stream(server, tools=[PATCH])

    assert [event.type for event in told][2:-1] == [
        "response.output_item.added",
        "response.custom_tool_call_input.delta",
        "response.custom_tool_call_input.done",
        "response.output_item.done",
    ]
    [call] = told[-1].response.output
    assert (call.type, call.name, call.input) == ("custom_tool_call", "patch", "a\nb")


async def test_the_tokens_of_a_text_are_told_where_they_are_asked_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    wanted: dict[str, Any] = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}
    async with running(speaking("<think>\nhm\n</think>\n\nYes.")) as server:
        plain = await respond(server, **wanted)
        told = await stream(server, **wanted)

    for response in (plain, told[-1].response):
        said = response.output[1].content[0]  # type: ignore[union-attr, index]
        assert "".join(one.token for one in said.logprobs).strip() == "Yes."
    tokens = [
        one.token
        for event in told
        if event.type == "response.output_text.delta"
        for one in event.logprobs
    ]
    assert "".join(tokens).strip() == "Yes."


async def test_what_was_asked_for_is_told_back(autojump_clock: trio.testing.MockClock) -> None:
    fields: dict[str, Any] = {
        "instructions": "be brief",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
        "tools": [
            LOOK,
            {"type": "web_search"},
            {"type": "namespace", "name": "n", "description": "d", "tools": [LOOK]},
        ],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "look"}],
        },
        "parallel_tool_calls": False,
        "reasoning": {"effort": "none"},
        "text": {"format": {"type": "text"}, "verbosity": "low"},
        "prompt_cache_key": "k",
    }
    async with running(speaking("Yes.")) as server:
        response = (await post(server.app, PATH, body(**fields))).json

    assert {
        name: response[name]
        for name in (
            "instructions",
            "metadata",
            "temperature",
            "top_p",
            "tool_choice",
            "parallel_tool_calls",
        )
    } == {
        name: fields[name]
        for name in (
            "instructions",
            "metadata",
            "temperature",
            "top_p",
            "tool_choice",
            "parallel_tool_calls",
        )
    }
    assert [tool["name"] for tool in response["tools"]] == ["look"]  # type: ignore[attr-defined]
    assert response["reasoning"] == {"effort": "none", "summary": None}
    assert response["text"] == {"format": {"type": "text"}}


async def test_json_of_a_schema_is_what_comes(autojump_clock: trio.testing.MockClock) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    async with running(served(FakeRunner())) as server:
        response = await respond(
            server,
            text={
                "format": {
                    "type": "json_schema",
                    "name": "number",
                    "schema": schema,
                    "strict": True,
                }
            },
        )

    assert json.loads(response.output_text) == {"n": 0}
    assert response.status == "completed"


async def test_a_demanded_call_is_made(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        response = await respond(
            server, tools=[LOOK], tool_choice={"type": "function", "name": "look"}
        )

    assert [item.type for item in response.output] == ["function_call"]


# ------------------------------------------------------------------------------------------ the SDK


class Number(pydantic.BaseModel):
    """What is asked for in a form."""

    n: int


async def test_the_sdk_streams_parses_and_goes_on() -> None:
    def talk(port: int) -> None:
        with openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0
        ) as client:
            with client.responses.stream(
                model="tiny", input="hi", max_output_tokens=20
            ) as streaming:
                text = "".join(
                    event.delta for event in streaming if event.type == "response.output_text.delta"
                )
                final = streaming.get_final_response()
            parsed = client.responses.parse(
                model="tiny", input="a number", text_format=Number, previous_response_id=final.id
            )
            listed = list(client.responses.input_items.list(parsed.id, limit=1))
            found = client.responses.retrieve(final.id)
            client.responses.delete(final.id)
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(final.id)
        assert final.output_text == text == found.output_text
        assert parsed.output_parsed == Number(n=0)
        assert [item.type for item in listed] == ["message"]

    async with listening(served(FakeRunner(end_after=9))) as port:
        await trio.to_thread.run_sync(talk, port)


# ------------------------------------------------------------------------------------ conversations


async def loop(server: Any, **fields: Any) -> tuple[Response, Response]:
    """A turn that calls, and the next one with the result; everything is sent again."""
    first = await respond(server, "x" * 300, tools=[LOOK], **fields)
    [call] = [item for item in first.output if isinstance(item, ResponseFunctionToolCall)]
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "blue"}
    given = [{"role": "user", "content": "x" * 300}, *echoed(first), result]
    return first, await respond(server, given, tools=[LOOK], **fields)


async def test_the_next_turn_of_a_tool_loop_begins_with_all_of_the_turn_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT_AND_CALL)) as server:
        first, second = await loop(server, store=False)

    assert first.usage is not None
    assert cached(second) >= first.usage.total_tokens - 2, (
        "but for the token that ended the turn, and the last one drawn"
    )


async def test_a_chain_begins_with_all_of_the_turn_before(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking(THOUGHT_AND_CALL)) as server:
        first = await respond(server, "x" * 300, tools=[LOOK])
        call = first.output[-1]
        assert isinstance(call, ResponseFunctionToolCall)
        result = {"type": "function_call_output", "call_id": call.call_id, "output": "blue"}
        second = await respond(server, [result], tools=[LOOK], previous_response_id=first.id)
        third = await respond(server, "and now?", tools=[LOOK], previous_response_id=second.id)

    for before, after in ((first, second), (second, third)):
        assert before.usage is not None
        assert cached(after) / (before.usage.total_tokens - 1) >= 0.99
    assert third.previous_response_id == second.id
    assert verify(server.responses.chain(third.id)) == ()


async def test_instructions_are_not_carried_over(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking("Yes.")) as server:
        first = await respond(server, "hi", instructions="be brief" * 9)
        second = await respond(server, "more", previous_response_id=first.id)
        bare = await respond(
            server,
            [
                {"role": "user", "content": "hi"},
                *echoed(first),
                {"role": "user", "content": "more"},
            ],
        )

    assert second.instructions is None
    assert second.usage is not None
    assert bare.usage is not None
    assert second.usage.input_tokens == bare.usage.input_tokens


async def test_an_item_of_a_stored_response_is_found_by_its_id(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        first = await respond(server, "hi")
        given = [
            {"role": "user", "content": "hi"},
            {"type": "item_reference", "id": first.output[0].id},
            {"role": "user", "content": "more"},
        ]
        referred = await respond(server, given)
        await server_delete(server, first.id)
        again = await respond(server, "and more", previous_response_id=referred.id)

    assert cached(referred) > len("user:hi\nassistant:Yes.") - 2
    assert cached(again) == 0, "the agent that had read the deleted one is deleted"
    assert again.usage is not None
    assert again.usage.input_tokens > len("user:hi\nassistant:Yes.user:more\n"), (
        "what was referred to was stored with what referred to it"
    )


async def test_thoughts_come_back_and_summaries_of_them_do_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("<think>\nI look.\n</think>\n\nYes.")) as server:
        response = await respond(server, include=["reasoning.encrypted_content"], store=False)

    thought = response.output[0]
    assert isinstance(thought, ResponseReasoningItem)
    assert thought.content is not None
    assert [part.text for part in thought.content] == ["I look."]
    assert (thought.summary, thought.encrypted_content) == ([], None)
