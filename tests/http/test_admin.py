"""What an operator does while the server runs: evict the cache, drain the server."""

import errno

import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.adapters.http.serving.eviction import SETTLE_SECONDS, WRITE_SECONDS
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.http.agents import Answer, create, do, say, view
from tests.http.serving import (
    Call,
    FakeHost,
    Served,
    fake_model,
    openai_body,
    post,
    running,
    served,
)

EVICT, DRAIN = "/admin/cache/evict", "/admin/drain"
TEXT = "x" * 600
DISK = 1 << 24


async def evict(server: Served) -> Answer:
    call = await post(server.app, EVICT, b"")
    assert call.status == 200, call.content
    server.engine.memory.audit()
    return call.json


def origin(call: Call) -> str:
    """Where the beginning of a prompt came from, or why it was computed."""
    return call.answer_headers["x-semantic-cache"].partition("; ")[2]


async def test_an_evicted_cache_is_on_disk_and_comes_back_from_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Although the turn has just ended, and nothing of it was written yet."""
    async with running(served(FakeRunner(), disk_bytes=DISK)) as server:
        first = await post(server.app, "/v1/chat/completions", openai_body(TEXT, temperature=0))
        evicted = await evict(server)
        again = await post(server.app, "/v1/chat/completions", openai_body(TEXT, temperature=0))

    assert evicted["freed_bytes"] > 0
    assert evicted["used_bytes"] == evicted["unwritten_bytes"] == 0
    assert origin(again) == "source=disk"
    assert again.json["choices"] == first.json["choices"]


async def test_without_a_disk_an_evicted_cache_is_computed_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/chat/completions", openai_body(TEXT))
        evicted = await evict(server)
        again = await post(server.app, "/v1/chat/completions", openai_body(TEXT))

    assert evicted["freed_bytes"] > 0
    assert evicted["used_bytes"] == evicted["unwritten_bytes"] == 0
    assert "cause=evicted" in origin(again)


async def test_what_a_pin_holds_is_not_evicted(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner(), disk_bytes=DISK)) as server:
        for agent in ("ada", "ben"):
            await create(server, id=agent)
            await say(server, agent, f"{agent} {TEXT}")
        await do(server, "ada", "pin")
        evicted = await evict(server)
        resident = {agent: (await view(server, agent))["bytes"] for agent in ("ada", "ben")}

    assert evicted["freed_bytes"] > 0
    assert resident == {"ada": evicted["used_bytes"], "ben": 0}
    assert evicted["used_bytes"] > 0


async def test_a_request_that_runs_keeps_its_row(autojump_clock: trio.testing.MockClock) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=0.1), disk_bytes=DISK)) as server,
        trio.open_nursery() as nursery,
    ):
        call = Call(
            server.app,
            "POST",
            "/v1/chat/completions",
            b'{"model":"tiny","max_tokens":200,"messages":[{"role":"user","content":"x"}]}',
        )
        nursery.start_soon(call.run)
        await trio.sleep(5)
        evicted = await evict(server)

    assert evicted["used_bytes"] > 0
    assert call.json["usage"]["completion_tokens"] == 200  # type: ignore[index]


async def test_a_model_is_not_unloaded_before_its_cache_is_evicted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The device of the main model is busy, so its eviction takes a while."""
    host = FakeHost({"org/small": lambda: fake_model("org/small", FakeRunner())})
    async with (
        running(
            served(FakeRunner(seconds_per_step=0.1), host=host, others=("org/small",))
        ) as server,
        trio.open_nursery() as nursery,
    ):
        await post(server.app, "/v1/chat/completions", openai_body(model="org/small"))
        nursery.start_soon(post, server.app, "/v1/chat/completions", openai_body(max_tokens=200))
        await trio.sleep(5)
        nursery.start_soon(evict, server)
        await trio.sleep(SETTLE_SECONDS / 2)
        unloaded = await post(server.app, "/admin/models/unload", {"model": "org/small"})

    assert unloaded.json["seconds"] == pytest.approx(SETTLE_SECONDS / 2, abs=0.1)


async def test_what_cannot_be_written_stays_in_memory(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def refuse(method: str) -> None:
        if method == "write":
            raise OSError(errno.ENOSPC, "no space left")

    async with running(
        served(FakeRunner(), disk_bytes=DISK, files=MemoryFiles(before=refuse))
    ) as server:
        await post(server.app, "/v1/chat/completions", openai_body(TEXT))
        evicted = await evict(server)
        again = await post(server.app, "/v1/chat/completions", openai_body(TEXT))

    assert evicted["freed_bytes"] == 0
    assert evicted["used_bytes"] == evicted["unwritten_bytes"] > 0
    assert origin(again) == "source=ram"


async def test_a_disk_that_does_nothing_holds_the_answer_up_for_a_bounded_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = served(FakeRunner(), disk_bytes=DISK)  # whose writer does not run
    async with trio.open_nursery() as nursery:
        await nursery.start(server.engine.run)
        await post(server.app, "/v1/chat/completions", openai_body(TEXT))
        began = trio.current_time()
        evicted = await evict(server)
        took = trio.current_time() - began
        nursery.cancel_scope.cancel()

    assert WRITE_SECONDS <= took <= WRITE_SECONDS + SETTLE_SECONDS
    assert evicted["unwritten_bytes"] == evicted["used_bytes"] > 0


async def test_what_waits_to_be_written_is_written_before_it_is_evicted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = served(FakeRunner(), disk_bytes=DISK)

    async def write_later() -> None:
        await trio.sleep(WRITE_SECONDS / 2)
        await server.persistence.run()

    async with trio.open_nursery() as nursery:
        await nursery.start(server.engine.run)
        await post(server.app, "/v1/chat/completions", openai_body(TEXT))
        nursery.start_soon(write_later)
        evicted = await evict(server)
        nursery.cancel_scope.cancel()

    assert evicted["freed_bytes"] > 0
    assert evicted["used_bytes"] == evicted["unwritten_bytes"] == 0


async def test_a_drain_is_begun_at_once_and_says_what_runs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    settings = HttpSettings(shutdown_timeout_seconds=7)
    async with (
        running(served(FakeRunner(seconds_per_step=1), settings, rows=1)) as server,
        trio.open_nursery() as nursery,
    ):
        for text in ("one", "two", "three"):
            nursery.start_soon(
                post, server.app, "/v1/chat/completions", openai_body(text, max_tokens=9)
            )
        await trio.sleep(2.5)
        began = trio.current_time()
        first, second = [await post(server.app, DRAIN, b"") for _ in range(2)]
        took = trio.current_time() - began

    told = {"running": 1, "waiting": 2, "timeout_seconds": 7}
    assert [(call.status, call.json) for call in (first, second)] == [(202, told), (202, told)]
    assert took == 0
    assert server.stopped.is_set()


@pytest.mark.parametrize("path", [EVICT, DRAIN])
@pytest.mark.parametrize(
    ("settings", "headers", "status"),
    [
        (HttpSettings(api_key="s3cret"), {}, 401),
        (HttpSettings(api_key="s3cret"), {"x-api-key": "wrong"}, 401),
        (HttpSettings(), {"origin": "https://evil.com"}, 403),
        (HttpSettings(), {"host": "evil.com"}, 403),
    ],
)
async def test_only_the_operator_evicts_and_drains(
    path: str, settings: HttpSettings, headers: dict[str, str], status: int
) -> None:
    server = served(FakeRunner(), settings)

    assert (await post(server.app, path, b"", **headers)).status == status
    assert not server.stopped.is_set()


@pytest.mark.parametrize("path", [EVICT, DRAIN])
async def test_looking_at_an_action_does_nothing(path: str) -> None:
    server = served(FakeRunner())

    assert (await Call(server.app, "GET", path).run()).status == 405
    assert not server.stopped.is_set()
