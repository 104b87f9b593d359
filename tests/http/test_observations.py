"""What a server reports of requests, rows, memory and disk to its observers and its log; and that
nothing of a conversation is among it.
"""

from typing import TypeVar

import attrs
import structlog
import trio

from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.observation import (
    DrainBegan,
    DrainEnded,
    Evicted,
    GenerationEnded,
    Loaded,
    PromptRead,
    RequestEnded,
    RowOpened,
    Written,
)
from semantic_trio.domain.reuse import MissCause, ReuseSource
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import FakeRunner, MemoryFiles, MemoryObserver
from tests.http.serving import Served, openai_body, post, running, served

Kind = TypeVar("Kind")


def observing(server: Served) -> MemoryObserver:
    observer = MemoryObserver()
    server.observers.add(observer)
    return observer


def of(observer: MemoryObserver, kind: type[Kind]) -> list[Kind]:
    return [one for one in observer.observations if isinstance(one, kind)]


async def ask(
    server: Served, text: str = "hi", agent: str = "a", request_id: str = "r", **fields: object
) -> int:
    call = await post(
        server.app,
        "/v1/chat/completions",
        openai_body(text, session_id=agent, **fields),
        **{"x-request-id": request_id},
    )
    return call.status


async def test_a_request_is_reported_step_by_step_with_its_ids(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        observer = observing(server)
        assert await ask(server, "hush " * 100, max_tokens=3) == 200

    kinds = [type(one) for one in observer.observations]
    assert kinds == [RowOpened, PromptRead, GenerationEnded, RequestEnded]
    opened, read, generated, ended = observer.observations
    assert {(one.request_id, one.agent) for one in observer.observations} == {("r", "a")}
    assert (opened.prompt_tokens, opened.reused_tokens, opened.source, opened.cause) == (
        read.tokens,
        0,
        ReuseSource.NONE,
        MissCause.NEW,
    )
    assert 0 < opened.waited_seconds < read.seconds
    assert generated.completion_tokens == ended.completion_tokens == 3
    assert generated.started_at is not None
    assert (
        generated.submitted_at
        < generated.started_at
        < generated.stamps[0]
        <= generated.closed_at
        <= ended.ended_at
    )
    assert (ended.status, ended.model, ended.protocol, ended.prompt_tokens) == (
        "200",
        "org/tiny",
        "openai",
        read.tokens,
    )
    assert "hush" not in repr([attrs.asdict(one) for one in observer.observations])


async def test_what_a_second_turn_reuses_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        observer = observing(server)
        for _ in range(2):
            await ask(server, "x" * 600)

    _, second = of(observer, RowOpened)
    assert second.source is ReuseSource.RAM
    assert 0 < second.reused_tokens < second.prompt_tokens
    assert of(observer, PromptRead)[1].tokens == second.prompt_tokens - second.reused_tokens


async def test_a_request_that_is_refused_is_reported_and_opens_no_row(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), context_length=256)) as server:
        observer = observing(server)
        assert await ask(server, "x" * 600) == 400

    assert [(type(one), one.status) for one in observer.observations] == [(RequestEnded, "400")]


async def test_a_prompt_that_is_only_read_is_reported(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        observer = observing(server)
        generation = server.engine.submit(
            GenerationRequest("r", tuple(range(20)), max_tokens=0, seed=1),
            server.state.models[0].codec.decoder(),
        )
        await generation.result()

    opened, read = observer.observations
    assert (type(opened), type(read)) == (RowOpened, PromptRead)
    assert read.tokens == 20


async def test_evictions_from_ram_are_reported_with_their_number(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), budget_bytes=8 * 2000)) as server:
        observer = observing(server)
        for agent in "abcd":
            await ask(server, agent * 700, agent=agent)
        evictions = server.engine.memory.store.evictions

    assert evictions > 0
    assert sum(one.entries for one in of(observer, Evicted)) == evictions
    assert {one.tier for one in of(observer, Evicted)} == {"ram"}


async def test_writes_loads_and_evictions_on_disk_are_reported_with_their_bytes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(
        served(FakeRunner(), budget_bytes=8 * 2000, disk_bytes=200_000, files=MemoryFiles())
    ) as server:
        observer = observing(server)
        for agent in "abcabc":
            await ask(server, agent * 700, agent=agent)
            await trio.sleep(1)
        traffic = server.persistence.traffic
        written, loaded = of(observer, Written), of(observer, Loaded)
        assert sum(one.size_bytes for one in written) == traffic.written_bytes > 0
        assert {one.agent for one in written} == {None, "a", "b", "c"}
        assert sum(one.size_bytes for one in loaded) == traffic.read_bytes > 0
        for agent in "defghijk":
            await ask(server, agent * 700, agent=agent)
            await trio.sleep(1)

    assert (
        sum(one.entries for one in of(observer, Evicted) if one.tier == "disk")
        == traffic.evicted
        > 0
    )


async def test_a_drain_is_reported_from_its_beginning_to_its_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(served(FakeRunner(seconds_per_step=1.0))) as server,
        trio.open_nursery() as nursery,
    ):
        observer = observing(server)
        nursery.start_soon(ask, server)
        await trio.sleep(0.5)
        await server.engine.drain(1.5)

    assert of(observer, DrainBegan) == [DrainBegan(open_requests=1, grace_seconds=1.5)]
    assert of(observer, DrainEnded) == [DrainEnded(failed_requests=1, seconds=1.5)]


# ---------------------------------------------------------------------------------------------- log


async def test_a_line_of_the_engine_has_the_ids_of_request_and_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def fails(plan: StepPlan) -> None:
        if plan.prefill:
            raise RuntimeError("broken")

    async with running(served(FakeRunner(seconds_per_step=0.05, before_step=fails))) as server:
        with structlog.testing.capture_logs() as lines:
            await ask(server, request_id="lost")

    [line] = [line for line in lines if line["event"] == "a generation has failed"]
    assert (line["request_id"], line["agent"]) == ("lost", "a")
    assert "broken" in line["reason"]


async def test_the_line_about_a_long_prompt_has_the_ids_of_request_and_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(seconds_per_step=6.0))) as server:
        with structlog.testing.capture_logs() as lines:
            await ask(server, "x" * 1000, request_id="long", max_tokens=1)

    found = [line for line in lines if line["event"] == "a long prompt is being read"]
    assert found
    assert {(line["request_id"], line["agent"]) for line in found} == {("long", "a")}
