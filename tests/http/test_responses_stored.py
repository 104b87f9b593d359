"""Responses that are stored, retrieved, continued and deleted."""

import json
from typing import Any

import pytest
import trio
import trio.testing
from openai.types.responses import Response

from tests.http.messages import speaking
from tests.http.responses import (
    PATH,
    body,
    cancel,
    events,
    respond,
    server_delete,
    slowly,
    stored,
    stream,
)
from tests.http.serving import Call, get, post, running


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
