"""Several models in one server, over HTTP: which one answers, which are open, what a swap does to
requests.
"""

import itertools
import json
import math
from contextlib import ExitStack

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.application.model_entry import ModelLimits
from semantic_trio.application.neighbours import Neighbours
from semantic_trio.domain.step import StepPlan, StepResult
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.http.serving import (
    Call,
    FakeHost,
    Served,
    anthropic_body,
    fake_model,
    get,
    openai_body,
    post,
    running,
    served,
)
from tests.http.test_operating import read

SMALL = "org/small"
DISK = 1 << 24


def with_small(
    runner: FakeRunner | None = None,
    *,
    limits: ModelLimits | None = None,
    main_runner: FakeRunner | None = None,
) -> Served:
    """A server whose second model is not open yet."""
    host = FakeHost({SMALL: lambda: fake_model(SMALL, runner or FakeRunner())})
    return served(main_runner or FakeRunner(), host=host, others=(SMALL,), limits_of_models=limits)


def states(call: Call) -> dict[str, object]:
    data = call.json["data"]
    assert isinstance(data, list)
    return {one["id"]: one["state"] for one in data}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", anthropic_body(model=SMALL)),
        ("/v1/messages", anthropic_body(model=SMALL, stream=True)),
        ("/v1/chat/completions", openai_body(model=SMALL)),
        ("/v1/chat/completions", openai_body(model=SMALL, stream=True)),
        ("/v1/completions", {"model": SMALL, "prompt": "hi", "max_tokens": 5}),
        ("/v1/responses", {"model": SMALL, "input": "hi", "max_output_tokens": 16, "store": False}),
        ("/v1/embeddings", {"model": SMALL, "input": "hi"}),
        (
            "/v1/messages/count_tokens",
            {"model": SMALL, "messages": [{"role": "user", "content": "hi"}]},
        ),
        ("/v1/agents", {"model": SMALL, "id": "ada"}),
    ],
)
async def test_every_route_opens_the_model_that_is_named(
    path: str, body: object, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_small()) as server:
        call = await post(server.app, path, body)
        listed = await get(server.app, "/v1/models")
        users = server.state.registry.models.entry(SMALL).users

    assert call.status in {200, 201}, call.content
    assert "count_tokens" in path or SMALL.encode() in call.content
    assert states(listed) == {"org/tiny": "ready", SMALL: "ready"}
    assert users == 0, "given back with the end of the request"


async def test_a_model_is_in_use_until_the_last_byte_of_its_stream(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(with_small(FakeRunner(seconds_per_step=1))) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(
            post,
            server.app,
            "/v1/chat/completions",
            openai_body(model=SMALL, stream=True, max_tokens=50),
        )
        await trio.sleep(20)
        assert server.state.registry.models.entry(SMALL).users == 1

    assert server.state.registry.models.entry(SMALL).users == 0


async def test_models_are_listed_with_what_is_known_of_them(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_small()) as server:
        before = (await get(server.app, f"/v1/models/{SMALL}")).json
        await post(server.app, "/v1/chat/completions", openai_body(model=SMALL))
        resident = (await get(server.app, f"/v1/models/{SMALL}")).json
        await server.state.registry.unload(SMALL)
        after = (await get(server.app, f"/v1/models/{SMALL}")).json

    assert (before["state"], before["max_input_tokens"], before["bytes"], before["created_at"]) == (
        "absent",
        None,
        None,
        "1970-01-01T00:00:00Z",
    )
    assert (resident["state"], resident["max_input_tokens"], resident["bytes"]) == (
        "ready",
        4096,
        1 << 24,
    )
    assert (after["state"], after["max_input_tokens"], after["bytes"]) == ("absent", 4096, None)


async def test_a_model_that_cannot_be_loaded_is_told_and_the_main_model_answers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), host=FakeHost({}), others=(SMALL,))) as server:
        call = await post(server.app, "/v1/messages", anthropic_body(model=SMALL))
        main = await post(server.app, "/v1/messages", anthropic_body())
        listed = await get(server.app, "/v1/models")

    assert (call.status, main.status) == (404, 200)
    assert call.json["error"] == {
        "type": "not_found_error",
        "message": f"model: {SMALL} (not on this machine)",
    }
    assert states(listed) == {"org/tiny": "ready", SMALL: "failed"}


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [("/v1/messages", 529, anthropic_body), ("/v1/chat/completions", 429, openai_body)],
)
async def test_a_model_without_room_is_refused_with_when_to_come_back(
    path: str, status: int, body: object, autojump_clock: trio.testing.MockClock
) -> None:
    limits = ModelLimits(max_models=1, grace_seconds=5)
    async with (
        running(with_small(limits=limits, main_runner=FakeRunner(seconds_per_step=1))) as server,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(post, server.app, "/v1/chat/completions", openai_body(max_tokens=60))
        await trio.sleep(1)
        call = await post(server.app, path, {**openai_body(), "model": SMALL})

    assert (call.status, call.answer_headers["retry-after"]) == (status, "5")
    assert b"its memory is used by org/tiny, which answers 1 requests" in call.content


async def test_a_request_that_outlasts_a_swap_ends_with_an_error_and_nothing_hangs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = with_small(
        limits=ModelLimits(grace_seconds=5), main_runner=FakeRunner(seconds_per_step=1)
    )
    async with running(server), trio.open_nursery() as nursery:
        stream = Call(
            server.app,
            "POST",
            "/v1/messages",
            b'{"model":"tiny","max_tokens":900,"messages":[{"role":"user","content":"x"}],"stream":true}',
        )
        nursery.start_soon(stream.run)
        await trio.sleep(3)
        swapped = await server.state.registry.swap(SMALL)
        answer = await post(server.app, "/v1/messages", anthropic_body(model="claude-x"))
        health = await get(server.app, "/health/ready")

    # the grace, what a step takes, and the opening
    assert swapped.seconds == pytest.approx(6, abs=2)
    assert b"event: error" in stream.content
    assert b"org/tiny is being unloaded" in stream.content
    assert answer.json["model"] == SMALL
    assert health.status == 200


async def test_after_a_swap_there_and_back_agents_are_found_on_disk(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Every token that the next turn has in common with the last one is reused."""
    files = MemoryFiles()
    models = {
        "org/tiny": lambda: fake_model("org/tiny", FakeRunner(), disk_bytes=DISK, files=files),
        SMALL: lambda: fake_model(SMALL, FakeRunner(), disk_bytes=DISK),
    }
    server = served(FakeRunner(), host=FakeHost(models), others=("org/tiny", SMALL))
    messages: list[dict[str, str]] = [{"role": "user", "content": "x" * 600}]
    async with running(server):
        await server.state.registry.unload("org/tiny")
        first = await post(
            server.app,
            "/v1/chat/completions",
            openai_body(messages=messages, session_id="ada", temperature=0),
        )
        for name in (SMALL, "org/tiny"):
            await server.state.registry.swap(name)
        again = await post(
            server.app,
            "/v1/chat/completions",
            openai_body(messages=messages, session_id="ada", temperature=0),
        )
        agents = await get(server.app, "/v1/agents")

    assert again.json["choices"] == first.json["choices"]
    assert "source=disk" in again.answer_headers["x-semantic-cache"]
    usage = again.json["usage"]
    assert isinstance(usage, dict)
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] - 1
    assert agents.json["total"] == 1


@attrs.define(eq=False)
class SharedRunner(FakeRunner):
    """A runner whose steps wait for their turn on a device that others use too: first come, first
    served.
    """

    name: str = attrs.field(kw_only=True)
    device: trio.Lock = attrs.field(kw_only=True)
    steps: list[str] = attrs.field(kw_only=True)

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        async with self.device:
            self.steps.append(self.name)
            return await super().step(plan)


async def test_the_steps_of_two_models_alternate(autojump_clock: trio.testing.MockClock) -> None:
    """A small model's answer waits for one step of the large one before each of its own."""
    device, steps = trio.Lock(), list[str]()
    large = SharedRunner(seconds_per_step=1.0, name="large", device=device, steps=steps)
    small = SharedRunner(seconds_per_step=0.01, name="small", device=device, steps=steps)
    async with running(with_small(small, main_runner=large)) as server:
        await server.state.registry.load(SMALL)
        steps.clear()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(post, server.app, "/v1/chat/completions", openai_body(max_tokens=50))
            await trio.sleep(0.5)
            began = trio.current_time()
            await post(server.app, "/v1/chat/completions", openai_body(model=SMALL, max_tokens=10))
            took = trio.current_time() - began

    first, last = steps.index("small"), len(steps) - 1 - steps[::-1].index("small")
    both = steps[first : last + 1]
    assert both == ["small", "large"] * (len(both) // 2) + ["small"]
    assert took < (both.count("small") + 2) * 1.01


@pytest.mark.parametrize(("is_joined", "longest"), [(True, 0.5), (False, 1.3)])
async def test_a_prompt_of_one_model_stalls_the_stream_of_another_for_the_bound(
    is_joined: bool, longest: float, autojump_clock: trio.testing.MockClock
) -> None:
    """A quarter of a second with what a step takes, and not the whole second of a prompt that
    nobody beside it waits for.
    """
    device, neighbours = trio.Lock(), Neighbours()
    large = SharedRunner(
        seconds_per_prompt_token=0.01, seconds_per_step=0.01, name="large", device=device, steps=[]
    )
    small = SharedRunner(seconds_per_step=0.01, name="small", device=device, steps=[])
    async with running(with_small(small, main_runner=large)) as server:
        await server.state.registry.load(SMALL)
        # the pace of prompts is known from now on
        await post(server.app, "/v1/chat/completions", openai_body("x" * 1500))
        with ExitStack() as stack:
            for model in server.state.models if is_joined else ():
                stack.enter_context(neighbours.joined(model.engine))
            stream = Call(
                server.app,
                "POST",
                "/v1/chat/completions",
                json.dumps(openai_body(model=SMALL, max_tokens=200, stream=True)).encode(),
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.run)
                await trio.sleep(0.5)
                await post(server.app, "/v1/chat/completions", openai_body("y" * 1500))

    times = [time for time, _ in stream.chunks]
    gap = max(later - earlier for earlier, later in itertools.pairwise(times))
    assert longest / 2 < gap < longest


async def test_counters_do_not_fall_when_a_model_is_unloaded(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = with_small()
    async with running(server):
        await post(server.app, "/v1/chat/completions", openai_body())
        await post(server.app, "/v1/chat/completions", openai_body(model=SMALL))
        before = read(server.metrics)
        await server.state.registry.unload(SMALL)
        after = read(server.metrics)

    counters = {key for key in before if key[0].endswith(("_total", "_count", "_sum", "_bucket"))}
    assert before["semantic_models_resident",] == 2
    assert after["semantic_models_resident",] == 1
    assert before["semantic_tokens_generated_total",] > server.engine.tokens_generated
    assert {key: after.get(key, -math.inf) for key in counters} == {
        key: before[key] for key in counters
    }
