"""Responses in the background, and their faults."""

import json
from typing import Any

import trio
import trio.testing
from openai.types.responses import Response

from semantic_trio.testing import FakeRunner
from tests.http.messages import speaking
from tests.http.responses import PATH, body, cancel, events, respond, server_delete, slowly, stored
from tests.http.serving import Call, post, running, served

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
