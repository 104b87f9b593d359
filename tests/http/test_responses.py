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
    events,
    respond,
    stored,
    stream,
)
from tests.http.serving import Call, get, listening, post, running, served

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


# ------------------------------------------------------------------------------------- what is kept


async def server_delete(server: Any, response_id: str) -> Call:
    return await Call(server.app, "DELETE", f"{PATH}/{response_id}").run()


async def cancel(server: Any, response_id: str) -> Call:
    return await post(server.app, f"{PATH}/{response_id}/cancel", b"")


async def test_a_response_is_told_as_it_was_answered(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        plain = await post(server.app, PATH, body())
        final = (await stream(server))[-1].response
        found = [await stored(server, plain.json["id"]), await stored(server, final.id)]  # type: ignore[arg-type]

    assert found[0].content == plain.content
    assert Response.model_validate(found[1].json) == final


async def test_what_is_not_to_be_stored_is_not(autojump_clock: trio.testing.MockClock) -> None:
    def refuse(what: str) -> None:
        raise AssertionError(what)

    async with running(speaking("Yes.")) as server:
        server.responses.before = refuse
        response = await post(server.app, PATH, body(store=False))
        server.responses.before = lambda what: None
        found = await stored(server, str(response.json["id"]))

    assert (response.status, response.json["store"], found.status) == (200, False, 404)


async def test_what_is_deleted_is_gone_and_cannot_be_followed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        first = await respond(server, "hi")
        second = await respond(server, "more", previous_response_id=first.id)
        deleted, again = (
            await server_delete(server, first.id),
            await server_delete(server, first.id),
        )
        told = await stored(server, first.id)
        after = [
            await post(server.app, PATH, body(previous_response_id=one.id))
            for one in (first, second)
        ]

    assert deleted.json == {"id": first.id, "object": "response", "deleted": True}
    assert (again.status, told.status, after[0].status, after[1].status) == (404, 404, 404, 400)
    assert after[0].json["error"]["code"] == "previous_response_not_found"  # type: ignore[index]
    assert first.id in after[1].json["error"]["message"]  # type: ignore[index]


async def test_input_items_are_told_in_pages(autojump_clock: trio.testing.MockClock) -> None:
    given = [{"role": "user", "content": str(number)} for number in range(5)]

    async def page(query: str) -> Any:
        return (
            await Call(
                server.app, "GET", f"{PATH}/{response.id}/input_items", query=query.encode()
            ).run()
        ).json

    async with running(speaking("Yes.")) as server:
        response = await respond(server, given)
        newest = await page("limit=2")
        older = await page(f"limit=2&after={newest['last_id']}")
        oldest = await page(f"limit=2&after={older['last_id']}")
        forwards = await page("order=asc&limit=5")

    def texts(found: Any) -> list[str]:
        return [item["content"][0]["text"] for item in found["data"]]

    assert [texts(one) for one in (newest, older, oldest)] == [["4", "3"], ["2", "1"], ["0"]]
    assert [one["has_more"] for one in (newest, older, oldest, forwards)] == [
        True,
        True,
        False,
        False,
    ]
    assert texts(forwards) == ["0", "1", "2", "3", "4"]
    assert forwards["first_id"] == oldest["last_id"]


async def test_items_of_one_id_do_not_keep_a_reader_of_pages_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    given = [{"id": name, "role": "user", "content": name} for name in ("msg_a", "msg_a", "msg_b")]
    async with running(speaking("Yes.")) as server:
        where = f"{PATH}/{(await respond(server, given)).id}/input_items"
        pages = [
            (
                await Call(
                    server.app, "GET", where, query=f"order=asc&limit=1{more}".encode()
                ).run()
            ).json
            for more in ("", "&after=msg_a")
        ]

    assert [(page["last_id"], page["has_more"]) for page in pages] == [
        ("msg_a", True),
        ("msg_b", False),
    ]  # type: ignore[index,call-overload]


@pytest.mark.parametrize("query", ["limit=0", "limit=101", "limit=x", "order=up", "after=nothing"])
async def test_a_page_that_cannot_be_is_refused(
    query: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        response = await respond(server)
        call = await Call(
            server.app, "GET", f"{PATH}/{response.id}/input_items", query=query.encode()
        ).run()

    assert call.status == 400


async def test_what_no_model_reads_is_stored_in_short(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """An image among the results of a tool, thoughts another server has encrypted, items that are
    left out, fields nobody knows, an endless id.
    """
    long, text = "x" * 100_000, "y" * 10_000
    given = [
        {"role": "user", "content": text, "id": long, "future": {"deep": [long, "short"]}},
        {
            "type": "function_call",
            "call_id": "c",
            "name": "look",
            "arguments": json.dumps({"at": text}),
        },
        {
            "type": "function_call_output",
            "call_id": "c",
            "output": [
                {"type": "input_image", "image_url": long},
                {"type": "input_text", "text": text},
            ],
        },
        {"type": "reasoning", "encrypted_content": long, "summary": []},
        {"type": "web_search_call", "output": long},
    ]
    async with running(speaking("Yes.", context_length=100_000)) as server:
        response = await respond(server, given)
        call = await Call(
            server.app, "GET", f"{PATH}/{response.id}/input_items", query=b"order=asc"
        ).run()
        record = server.responses.get(response.id)
        after = await respond(server, "more", previous_response_id=response.id)

    items: Any = call.json["data"]
    user, called, found, _, _ = items
    assert record is not None
    assert len(record.input or b"") < 3 * len(text) + 2_000, "all texts, and no more"
    assert (
        user["content"][0]["text"],
        json.loads(called["arguments"])["at"],
        found["output"][1]["text"],
    ) == (text, text, text)
    assert user["future"]["deep"] == ["[100000 characters that are not stored]", "short"]
    assert user["id"].endswith("_i0")
    assert after.status == "completed"


async def test_a_store_that_is_down_refuses_before_anything_is_generated(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        server.responses.close()
        refused = [await post(server.app, PATH, body(stream=streams)) for streams in (False, True)]
        drawn = server.engine.tokens_generated
        unstored = await post(server.app, PATH, body(store=False))

    assert [call.status for call in refused] == [503, 503]
    assert refused[0].json["error"]["code"] == "store_unavailable"  # type: ignore[index]
    assert unstored.status == 200
    assert drawn == 0


async def test_a_store_that_goes_down_meanwhile_costs_the_record_and_not_the_answer(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(speaking("Yes.")) as server:
        server.responses.before = lambda what: server.responses.close() if what == "put" else None
        plain = await post(server.app, PATH, body())

    assert plain.json["status"] == "completed"
    assert plain.json["store"] is False


async def test_a_response_is_cancelled_from_another_connection_and_keeps_what_was_said(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server, trio.open_nursery() as nursery:
        streaming = Call(server.app, "POST", PATH, json.dumps(body(stream=True)).encode())
        nursery.start_soon(streaming.run)
        await trio.sleep(1)
        response_id = json.loads(streaming.chunks[0][1].split(b"data: ")[1].split(b"\n")[0])[
            "response"
        ]["id"]
        before = await stored(server, response_id)
        cancelled = await cancel(server, response_id)
        again = await cancel(server, response_id)
        await trio.sleep(1)
        left = server.engine.open_generations

    assert (before.json["status"], cancelled.json["status"]) == ("in_progress", "cancelled")
    assert again.content == cancelled.content
    assert (
        0 < len(Response.model_validate(cancelled.json).output_text) < len("Yes, and a lot more.")
    )
    told = events(streaming)
    assert told[-1].type == "response.incomplete"
    assert told[-1].response == Response.model_validate(cancelled.json)
    assert left == 0


async def test_a_response_that_is_being_streamed_cannot_be_gone_on_with_yet(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server, trio.open_nursery() as nursery:
        streaming = Call(server.app, "POST", PATH, json.dumps(body(stream=True)).encode())
        nursery.start_soon(streaming.run)
        await trio.sleep(1)
        begun = json.loads(streaming.chunks[0][1].split(b"data: ")[1].split(b"\n")[0])["response"][
            "id"
        ]
        reference = {"type": "item_reference", "id": f"msg_{begun.removeprefix('resp_')}_0"}
        items = await get(server.app, f"{PATH}/{begun}/input_items")
        follower = await post(server.app, PATH, body(previous_response_id=begun))
        referring = await post(server.app, PATH, body([reference]))
        nursery.cancel_scope.cancel()

    for call, param in (
        (items, "response_id"),
        (follower, "previous_response_id"),
        (referring, "input"),
    ):
        error: Any = call.json["error"]
        assert (call.status, error["param"]) == (400, param)
        assert "still being made" in error["message"]


async def test_a_stream_that_is_not_to_be_stored_is_not_found(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server, trio.open_nursery() as nursery:
        streaming = Call(
            server.app, "POST", PATH, json.dumps(body(stream=True, store=False)).encode()
        )
        nursery.start_soon(streaming.run)
        await trio.sleep(1)
        begun = json.loads(streaming.chunks[0][1].split(b"data: ")[1].split(b"\n")[0])["response"][
            "id"
        ]
        follower = await post(server.app, PATH, body(previous_response_id=begun))
        nursery.cancel_scope.cancel()

    assert follower.status == 404


def slowly(text: str) -> Any:
    server = speaking(text)
    server.runner.seconds_per_step = 0.25
    return server


# -------------------------------------------------------------------------------- in the background


async def test_a_response_in_the_background_is_made_when_its_request_is_over(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes.")) as server:
        queued = await respond(server, background=True)
        await trio.sleep(0.6)
        begun = await stored(server, queued.id)
        early = await post(server.app, PATH, body(previous_response_id=queued.id))
        await trio.sleep(5)
        ended = await stored(server, queued.id)
        after = await respond(server, "more", previous_response_id=queued.id)

    assert (queued.status, begun.json["status"], ended.json["status"]) == (
        "queued",
        "in_progress",
        "completed",
    )
    assert early.status == 400
    assert Response.model_validate(ended.json).output_text == "Yes."
    assert after.status == "completed"


async def test_a_response_in_the_background_is_cancelled_and_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server:
        one, other = (
            await respond(server, background=True),
            await respond(server, "two", background=True),
        )
        await trio.sleep(1)
        cancelled = await cancel(server, one.id)
        deleted = await server_delete(server, other.id)
        found = [await stored(server, response.id) for response in (one, other)]
        await trio.sleep(1)
        left = server.engine.open_generations

    assert cancelled.json["status"] == "cancelled"
    assert deleted.status == 200
    assert [call.status for call in found] == [200, 404]
    assert left == 0


async def test_a_response_whose_server_has_ended_has_failed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server:
        queued = await respond(server, background=True)
        await trio.sleep(1)
    async with running(speaking("Yes.", responses=server.responses)) as restarted:
        found = await stored(restarted, queued.id)

    told = Response.model_validate(found.json)
    assert told.status == "failed"
    assert told.error is not None
    assert told.error.code == "server_error"


async def test_the_end_of_the_server_ends_what_is_made_in_the_background(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server:
        queued = await respond(server, background=True)
        await trio.sleep(1)
        await server.engine.drain(1)
        server.active.stop()
        await trio.sleep(1)
        found = await stored(server, queued.id)
        refused = await post(server.app, PATH, body(background=True))

    told = Response.model_validate(found.json)
    assert told.status == "failed"
    assert told.error is not None
    assert "shutting down" in told.error.message
    assert told.output_text
    assert refused.status == 503


# ------------------------------------------------------------------------------------ when it fails


async def test_a_stream_that_fails_says_so_and_is_dropped(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = speaking("Yes, and more.")

    def fail(plan: Any) -> None:
        if server.engine.tokens_generated >= 3:
            server.runner.before_step = lambda plan: None
            raise RuntimeError("broken")

    server.runner.before_step = fail
    async with running(server):
        call = await post(server.app, PATH, body(stream=True))

    told = events(call)
    assert told[-1].type == "response.failed"
    assert (told[-1].response.status, told[-1].response.error.code) == ("failed", "server_error")
    assert "broken" in told[-1].response.error.message
    assert told[-1].response.output_text
    assert not call.is_complete


async def test_silence_is_filled_with_comments(autojump_clock: trio.testing.MockClock) -> None:
    server = served(FakeRunner(seconds_per_step=35, end_after=1))
    async with running(server):
        call = await post(server.app, PATH, body(stream=True))

    assert b": ping\n\n" in call.content
    assert [event.type for event in events(call)][-1] == "response.completed"


async def test_a_client_that_leaves_ends_its_generation_and_stores_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(slowly("Yes, and a lot more.")) as server, trio.open_nursery() as nursery:
        call = Call(server.app, "POST", PATH, json.dumps(body(stream=True)).encode())
        nursery.start_soon(call.run)
        await trio.sleep(1)
        call.gone.set()
        await trio.sleep(1)
        response_id = json.loads(call.chunks[0][1].split(b"data: ")[1].split(b"\n")[0])["response"][
            "id"
        ]
        found = await stored(server, response_id)
        left = server.engine.open_generations

    assert found.status == 404
    assert left == 0


# ---------------------------------------------------------------------------- what clients may send

IGNORED: list[dict[str, Any]] = [
    {
        "tools": [
            LOOK,
            {"type": "web_search"},
            {"type": "namespace", "name": "n", "description": "d", "tools": [LOOK]},
            {"type": "mcp"},
        ]
    },
    {"tools": [{"type": "web_search"}], "tool_choice": "none"},
    {
        "truncation": "auto",
        "service_tier": "flex",
        "user": "me",
        "stream_options": {"include_obfuscation": False},
        "max_tool_calls": 3,
    },
    {"reasoning": {"effort": "none", "summary": "auto"}, "text": {"verbosity": "high"}},
    {
        "input": [
            {"type": "web_search_call", "id": "ws_1", "status": "completed"},
            {"role": "user", "content": "x", "id": "msg_1"},
        ]
    },
    {
        "input": [
            {"type": "local_shell_call", "action": {"type": "exec"}, "call_id": "c"},
            {"type": "local_shell_call_output", "output": "x"},
        ]
    },
    {
        "input": [
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [{"type": "summary_text", "text": "x"}],
                "encrypted_content": "gAAA",
            }
        ]
    },
    {
        "input": [
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "refusal", "refusal": "no"}],
                "phase": "final_answer",
            }
        ]
    },
    {"input": [{"type": "custom_tool_call", "call_id": "c", "name": "patch", "input": "x"}]},
    {
        "input": [
            {
                "type": "custom_tool_call_output",
                "call_id": "c",
                "output": [{"type": "input_text", "text": "x"}],
            }
        ]
    },
    {
        "input": [
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [{"type": "input_image", "image_url": "data:"}],
            }
        ]
    },
    {"input": [], "previous_response_id": None, "conversation": None},
    {"input": None},
]


@pytest.mark.parametrize("fields", IGNORED)
async def test_what_is_not_for_this_server_is_left_out(
    fields: dict[str, Any], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        response = Response.model_validate((await post(server.app, PATH, body() | fields)).json)

    assert response.output_text == "Yes."


BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({"model": 3}, 400, "model"),
    ({"model": "nobody"}, 404, "model"),
    ({"input": 3}, 400, "input"),
    ({"input": [3]}, 400, "input.0"),
    ({"input": [{}]}, 400, "input.0.id"),
    ({"input": [{"role": "robot", "content": "x"}]}, 400, "input.0.role"),
    ({"input": [{"role": "user"}]}, 400, "input.0.content"),
    ({"input": [{"role": "user", "content": 3}]}, 400, "input.0.content"),
    ({"input": [{"role": "user", "content": [3]}]}, 400, "input.0.content.0"),
    (
        {"input": [{"role": "user", "content": [{"type": "input_text"}]}]},
        400,
        "input.0.content.0.text",
    ),
    ({"input": [{"type": "function_call", "name": "look"}]}, 400, "input.0.call_id"),
    ({"input": [{"type": "function_call_output", "call_id": "c"}]}, 400, "input.0.output"),
    (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": 3}]},
        400,
        "input.0.output",
    ),
    ({"input": [{"type": "item_reference", "id": "msg_nobody"}]}, 404, "input"),
    ({"input": [{"type": "item_reference", "id": "msg_" + "0" * 32 + "_0"}]}, 404, "input"),
    ({"input": [{"role": "user", "content": "x"}] * 20_001}, 400, "input"),
    ({"previous_response_id": "resp_nobody"}, 404, "previous_response_id"),
    ({"previous_response_id": "\0\ud800"}, 404, "previous_response_id"),
    ({"previous_response_id": 3}, 400, "previous_response_id"),
    ({"conversation": {"id": "conv_1"}}, 400, "conversation"),
    ({"prompt": {"id": "pmpt_1"}}, 400, "prompt"),
    ({"background": True, "store": False}, 400, "background"),
    ({"background": True, "stream": True}, 400, "background"),
    ({"max_output_tokens": 0}, 400, "max_output_tokens"),
    ({"temperature": 3}, 400, "temperature"),
    ({"metadata": {"a": 3}}, 400, "metadata"),
    ({"metadata": {"a" * 65: "x"}}, 400, None),
    ({"tools": [{"name": "x", "type": 3}]}, 400, "tools.0.type"),
    ({"tools": [LOOK], "tool_choice": {"type": "function", "name": "other"}}, 400, "tool_choice"),
    (
        {
            "tools": [LOOK],
            "tool_choice": {"type": "allowed_tools", "mode": "required", "tools": []},
        },
        400,
        "tool_choice",
    ),
    ({"tool_choice": "sometimes"}, 400, "tool_choice"),
    ({"text": {"format": {"type": "xml"}}}, 400, "text.format.type"),
    ({"reasoning": {"effort": "lots"}}, 400, "reasoning.effort"),
]


BAD += [
    ({"prompt_cache_key": "x" * 1025}, 400, "prompt_cache_key"),
    ({"input": [{"type": "item_reference", "id": "x" * 513}]}, 400, "input.0.id"),
    (
        {"input": [{"type": "function_call", "name": "x" * 513, "call_id": "c"}]},
        400,
        "input.0.name",
    ),
    (
        {"input": [{"type": "function_call_output", "call_id": "x" * 513, "output": ""}]},
        400,
        "input.0.call_id",
    ),
    (
        {"input": [{"type": "custom_tool_call", "name": "x", "call_id": "x" * 513}]},
        400,
        "input.0.call_id",
    ),
    (
        {
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "x",
                    "schema": {"description": "x" * (16 << 20)},
                }
            }
        },
        400,
        "store",
    ),
]


@pytest.mark.parametrize(("fields", "status", "field"), BAD, ids=range(len(BAD)))
async def test_what_cannot_be_is_refused_by_name(
    fields: dict[str, Any], status: int, field: str | None, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        call = await post(server.app, PATH, body() | fields, **{"anthropic-version": "2023-06-01"})
        assert server.engine.steps == 0

    assert call.status == status
    error: Any = call.json["error"]
    assert field is None or error["param"].startswith(field)
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("path", ["", "/cancel", "/input_items"])
async def test_what_nobody_has_answered_is_not_found(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(speaking("Yes.")) as server:
        call = await (
            post(server.app, f"{PATH}/nobody{path}", b"")
            if path == "/cancel"
            else get(server.app, f"{PATH}/nobody{path}")
        )

    assert call.status == 404
    assert call.json["error"] == {
        "message": "Response with id 'nobody' not found.",
        "type": "invalid_request_error",
        "param": None,
        "code": "response_not_found",
    }


@pytest.mark.parametrize(
    ("field", "told"),
    [
        ("conversation", "conversation: conversations are not kept here: use previous_response_id"),
        ("prompt", "prompt: prompts are not kept here: send their text as instructions or input"),
    ],
)
@pytest.mark.parametrize("named", ["pmpt_1", {"id": "pmpt_1"}])
async def test_what_is_kept_elsewhere_is_refused_with_what_to_send_instead(
    field: str, told: str, named: object
) -> None:
    call = await post(speaking("Yes.").app, PATH, body() | {field: named})

    assert (call.status, call.json["error"]["message"]) == (400, told)  # type: ignore[index]


async def test_a_stored_response_is_not_streamed(autojump_clock: trio.testing.MockClock) -> None:
    async with running(speaking("Yes.")) as server:
        response = await respond(server)
        call = await Call(server.app, "GET", f"{PATH}/{response.id}", query=b"stream=true").run()

    assert call.status == 400
