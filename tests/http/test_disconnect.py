"""Clients that leave, at every stage, and clients that wait."""

import json
from typing import Any

import pytest
import trio
import trio.testing

from semantic_trio.testing import ByteCodec, ByteDecoder, FakeRunner
from tests.http.serving import Call, Served, anthropic_body, openai_body, post, running, served

PATHS = {"/v1/messages": anthropic_body, "/v1/chat/completions": openai_body}
SECONDS_PER_STEP = 0.1


class DeafCall(Call):
    """Leaves when the answer begins, before anything of it went out."""

    async def _send(self, message: dict[str, object]) -> None:
        self.gone.set()
        await trio.sleep_forever()


def call_of(server: Served, path: str, kind: type[Call] = Call, **fields: Any) -> Call:
    """A request that has not been made."""
    return kind(server.app, "POST", path, json.dumps(PATHS[path](**fields)).encode())


async def is_empty_within_one_step(server: Served) -> bool:
    """Whether nobody holds a row and nothing waits, once a step has passed."""
    # the step that runs and the one that closes the row
    await trio.sleep(2 * SECONDS_PER_STEP + 0.02)
    return not (
        server.engine.open_generations
        or server.engine.scheduler.running
        or server.engine.scheduler.waiting
        or server.runner.rows
    )


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("seconds", [0.0, 0.005, 0.15, 1.05, 3.05])
async def test_a_client_that_leaves_leaves_nothing(
    path: str, stream: bool, seconds: float, autojump_clock: trio.testing.MockClock
) -> None:
    """At once, in the batch window, during prefill (20 steps long), in the middle of the answer."""
    runner = FakeRunner(seconds_per_step=SECONDS_PER_STEP, seconds_per_prompt_token=0.0)
    async with running(served(runner)) as server, trio.open_nursery() as nursery:
        call = call_of(server, path, text="x" * 1000, max_tokens=1000, stream=stream)
        nursery.start_soon(call.run)
        await trio.sleep(seconds)
        call.gone.set()
        await trio.testing.wait_all_tasks_blocked()
        assert not call.is_complete
        assert await is_empty_within_one_step(server)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_before_the_first_byte_leaves_nothing(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """The generator is made and never starts: only the request's own stack can release the row."""
    async with running(served(FakeRunner(seconds_per_step=SECONDS_PER_STEP))) as server:
        call = call_of(server, path, kind=DeafCall, max_tokens=1000, stream=True)
        await call.run()
        assert await is_empty_within_one_step(server)


@pytest.mark.parametrize("path", PATHS)
async def test_a_client_that_leaves_the_queue_leaves_nothing(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=SECONDS_PER_STEP), rows=1)) as server,
        trio.open_nursery() as nursery,
    ):
        first, queued = (call_of(server, path, max_tokens=50, stream=True) for _ in range(2))
        nursery.start_soon(first.run)
        await trio.sleep(1)
        nursery.start_soon(queued.run)
        await trio.sleep(1)
        assert queued.status == 200
        queued.gone.set()
        await trio.sleep(0.3)
        assert server.engine.open_generations == 1
    assert first.is_complete


async def test_a_storm_of_200_with_20_survivors_ends_empty(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.01), queue_limit=500)) as server,
        trio.open_nursery() as nursery,
    ):
        calls = [
            call_of(server, list(PATHS)[i % 2], max_tokens=10, stream=i % 3 > 0) for i in range(200)
        ]
        for i, call in enumerate(calls):
            nursery.start_soon(call.run)
            if i % 10:
                nursery.start_soon(_leave_after, call, i * 0.002)
    assert all(call.is_complete for call in calls[::10])
    assert server.engine.open_generations == 0


async def _leave_after(call: Call, seconds: float) -> None:
    await trio.sleep(seconds)
    call.gone.set()


@pytest.mark.parametrize("path", PATHS)
async def test_a_queued_stream_opens_at_once_and_pings(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=1.0), rows=1)) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(call_of(server, path, max_tokens=35).run)
        await trio.sleep(0.5)
        queued = call_of(server, path, stream=True, max_tokens=1)
        nursery.start_soon(queued.run)

    opened, *pings = queued.chunks
    assert opened[0] == pytest.approx(0.5)
    assert [round(at - 0.5) for at, chunk in pings if b"ping" in chunk] == [10, 20, 30]
    assert queued.is_complete


@pytest.mark.parametrize("path", PATHS)
async def test_a_failed_stream_tells_its_error_and_has_no_clean_end(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    runner = FakeRunner(seconds_per_step=SECONDS_PER_STEP)
    async with running(served(runner)) as server, trio.open_nursery() as nursery:
        call = call_of(server, path, max_tokens=100, stream=True)
        nursery.start_soon(call.run)
        await trio.sleep(1)
        runner.before_step = _fails
        await trio.sleep(SECONDS_PER_STEP)
        runner.before_step = lambda plan: None
        again = await post(server.app, path, PATHS[path]())

    assert not call.is_complete
    last = call.content.decode().strip().rpartition("\n\n")[2]
    if path == "/v1/messages":
        assert last.startswith("event: error\ndata: ")
        assert json.loads(last.split("data: ")[1])["error"]["type"] == "api_error"
    else:
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert b"[DONE]" not in call.content
    assert again.status == 200


async def test_a_bug_in_the_middle_of_a_stream_drops_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Undecodable(ByteDecoder):
        def push(self, token: int) -> str:
            return "\ud800"  # no JSON can hold it

    class UndecodableCodec(ByteCodec):
        def decoder(self) -> ByteDecoder:
            return Undecodable()

    async with running(
        served(FakeRunner(seconds_per_step=SECONDS_PER_STEP), codec=UndecodableCodec())
    ) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(stream=True, max_tokens=1000))
        assert await is_empty_within_one_step(server)

    assert b"message_start" in call.content
    assert not call.is_complete
    assert b'status="aborted"' in server.metrics.exposition()


@pytest.mark.parametrize("path", PATHS)
async def test_a_drained_stream_tells_that_it_is_overloaded(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=SECONDS_PER_STEP))) as server,
        trio.open_nursery() as nursery,
    ):
        call = call_of(server, path, max_tokens=1000, stream=True)
        nursery.start_soon(call.run)
        await trio.sleep(1)
        nursery.start_soon(server.engine.drain, 5)
        await trio.sleep(0.1)
        refused = await post(server.app, path, PATHS[path]())

    assert not call.is_complete
    assert b'"error"' in call.chunks[-1][1]
    assert (b"overloaded_error" in call.chunks[-1][1]) == (path == "/v1/messages")
    assert refused.status == 503
    assert int(refused.answer_headers["retry-after"]) >= 1


def _fails(plan: object) -> None:
    raise RuntimeError("the device is on fire")
