"""Streams of models that have to be loaded first: they are open while the model is loaded."""

import json

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.domain.errors import DrainingError
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.http.agents import create
from tests.http.serving import (
    Call,
    FakeHost,
    Served,
    anthropic_body,
    fake_model,
    openai_body,
    post,
    running,
    served,
)

SMALL = "org/small"
LOAD_SECONDS = 25.0


@attrs.frozen
class Wire:
    """A protocol: a streamed request, the signs of life before the answer, the first event of it,
    and the sign of its end and of its error.
    """

    path: str
    body: dict[str, object]
    ping: bytes
    first: bytes
    end: bytes
    error: bytes


COMMENT = b": ping\n\n"
RESPONSE = {"model": SMALL, "input": "hi", "max_output_tokens": 16, "store": False, "stream": True}
WIRES = {
    "messages": Wire(
        "/v1/messages",
        anthropic_body(model=SMALL, stream=True),
        b'event: ping\ndata: {"type":"ping"}\n\n',
        b"event: message_start",
        b"message_stop",
        b"event: error",
    ),
    "chat": Wire(
        "/v1/chat/completions",
        openai_body(model=SMALL, stream=True),
        COMMENT,
        b"data: {",
        b"[DONE]",
        b'data: {"error"',
    ),
    "completions": Wire(
        "/v1/completions",
        {"model": SMALL, "prompt": "hi", "max_tokens": 5, "stream": True},
        COMMENT,
        b": ping",
        b"[DONE]",
        b'data: {"error"',
    ),
    "responses": Wire(
        "/v1/responses",
        RESPONSE,
        COMMENT,
        b"event: response.created",
        b"response.incomplete",
        b"event: response.failed",
    ),
}


def a_server(*failing: str) -> Served:
    """A server with a second model that is not loaded."""
    host = FakeHost({SMALL: lambda: fake_model(SMALL, FakeRunner())}, LOAD_SECONDS, set(failing))
    return served(FakeRunner(), host=host, others=(SMALL,))


def call_of(server: Served, wire: Wire) -> Call:
    return Call(server.app, "POST", wire.path, json.dumps(wire.body).encode())


@pytest.mark.parametrize("protocol", WIRES)
async def test_a_stream_opens_at_once_and_pings_until_the_model_answers(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    wire = WIRES[protocol]
    async with running(a_server()) as server:
        began = trio.current_time()
        call = await call_of(server, wire).run()
        users = server.state.registry.models.entry(SMALL).users

    times = [time - began for time, _ in call.chunks]
    assert (call.status, call.answer_headers["content-type"]) == (
        200,
        "text/event-stream; charset=utf-8",
    )
    assert [chunk for _, chunk in call.chunks[:3]] == [wire.ping] * 3
    assert times[:3] == pytest.approx([0, 10, 20])
    assert times[3] == pytest.approx(LOAD_SECONDS, abs=0.5)
    assert call.chunks[3][1].startswith(wire.first)
    assert wire.end in call.content
    assert call.is_complete
    assert users == 0, "the model is released with the end of the request"


@pytest.mark.parametrize("protocol", WIRES)
async def test_a_model_that_cannot_be_loaded_is_an_error_event(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    wire = WIRES[protocol]
    async with running(a_server(SMALL)) as server:
        call = await call_of(server, wire).run()

    assert call.status == 200
    assert wire.error in call.content
    assert b"its weights are damaged" in call.content
    assert wire.end not in call.content
    assert not call.is_complete, (
        "the connection is dropped: nothing ends cleanly that is not complete"
    )


@pytest.mark.parametrize("protocol", WIRES)
async def test_an_unknown_model_is_a_status_and_no_stream(
    protocol: str, autojump_clock: trio.testing.MockClock
) -> None:
    wire = WIRES[protocol]
    async with running(a_server()) as server:
        call = await call_of(server, attrs.evolve(wire, body={**wire.body, "model": "gone"})).run()

    assert call.status == 404
    assert SMALL.encode() in call.content, "the answer says what is served"


async def test_a_prompt_that_is_too_long_for_the_loaded_model_is_an_error_event(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        call = await post(
            server.app, "/v1/messages", anthropic_body("x" * 9000, model=SMALL, stream=True)
        )

    assert call.status == 200
    assert b"prompt is too long" in call.content
    assert not call.is_complete


async def test_a_failed_response_begins_as_every_response(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server(SMALL)) as server:
        call = await call_of(server, WIRES["responses"]).run()

    events = [
        json.loads(line.removeprefix(b"data: "))
        for line in call.content.splitlines()
        if line.startswith(b"data: ")
    ]
    assert [(event["type"], event["sequence_number"]) for event in events] == [
        ("response.created", 0),
        ("response.failed", 1),
    ]
    assert {event["response"]["model"] for event in events} == {SMALL}
    assert [event["response"]["status"] for event in events] == ["in_progress", "failed"]


async def test_a_client_that_leaves_does_not_end_the_load_that_others_wait_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server, trio.open_nursery() as nursery:
        leaver = call_of(server, WIRES["chat"])
        nursery.start_soon(leaver.run)
        await trio.sleep(12)
        leaver.gone.set()
        await trio.testing.wait_all_tasks_blocked()
        waiting = server.state.registry.models.entry(SMALL).waiting
        began = trio.current_time()
        call = await call_of(server, WIRES["messages"]).run()
        users = server.state.registry.models.entry(SMALL).users

    assert waiting == 0
    assert call.is_complete
    assert call.chunks[2][0] - began == pytest.approx(LOAD_SECONDS - 12, abs=0.5), "loaded once"
    assert users == 0


async def test_a_stream_that_waits_for_a_model_ends_with_an_error_when_the_server_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server, trio.open_nursery() as nursery:
        call = call_of(server, WIRES["messages"])
        nursery.start_soon(call.run)
        await trio.sleep(3)
        await server.state.registry.drain(0)
        await trio.testing.wait_all_tasks_blocked()
        at_once = call.content

    assert b"event: error" in at_once
    assert b"overloaded_error" in at_once


async def test_requests_that_wait_for_a_swap_are_refused_when_the_server_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """So is the operator who swaps, and a model that the swap does not concern goes on."""
    models = {
        name: (lambda name=name: fake_model(name, FakeRunner())) for name in (SMALL, "org/other")
    }
    server = served(FakeRunner(), host=FakeHost(models, LOAD_SECONDS), others=(SMALL, "org/other"))

    async def swap() -> None:
        with pytest.raises(DrainingError):
            await server.state.registry.swap(SMALL)

    async with running(server), trio.open_nursery() as nursery:
        await server.state.registry.load("org/other")
        nursery.start_soon(swap)
        await trio.sleep(1)
        waiting = Call(
            server.app,
            "POST",
            "/v1/chat/completions",
            json.dumps(openai_body(model="default")).encode(),
        )
        nursery.start_soon(waiting.run)
        began = trio.current_time()
        other = await post(server.app, "/v1/chat/completions", openai_body(model="org/other"))
        took = trio.current_time() - began
        await server.state.registry.drain(0)
        await trio.testing.wait_all_tasks_blocked()

    assert (other.status, took < 1) == (200, True)
    assert waiting.status == 503


async def test_a_turn_of_an_agent_opens_its_stream_while_the_main_model_is_loaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files = MemoryFiles()
    models = {
        "org/tiny": lambda: fake_model("org/tiny", FakeRunner(), disk_bytes=1 << 24, files=files)
    }
    server = served(
        FakeRunner(), host=FakeHost(models, LOAD_SECONDS), disk_bytes=1 << 24, files=files
    )
    body = {"message": "hi", "max_tokens": 5, "stream": True}
    async with running(server):
        await create(server, id="ada")
        await server.persistence.flush(10)
        await server.state.registry.unload("org/tiny")
        call = await post(server.app, "/v1/agents/ada/generate", body)
        await server.state.registry.unload("org/tiny")
        unknown = await post(server.app, "/v1/agents/bob/generate", body)

    assert [chunk for _, chunk in call.chunks[:3]] == [b"event: ping\ndata: {}\n\n"] * 3
    assert call.chunks[3][1].startswith(b'event: start\ndata: {"agent":"ada"}')
    assert b"event: end" in call.content
    assert b"event: error" in unknown.content
    assert b"agent_not_found" in unknown.content


async def test_a_request_that_leaves_while_it_gets_its_model_does_not_keep_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(a_server()) as server:
        registry = server.state.registry
        call = call_of(server, WIRES["chat"])
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call.run)
            await trio.sleep(LOAD_SECONDS - 1)
            opening = registry.models.entry(SMALL).opening
            assert opening is not None
            await opening.over.wait()  # in the same tick as the acquisition
            call.gone.set()
        await trio.testing.wait_all_tasks_blocked()

    assert registry.models.entry(SMALL).users == 0
