"""Sampling in force: what a request says, and where it says nothing what the model's authors
say.
"""

from typing import Any

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.agents.request import DEFAULT_TOKENS
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams
from semantic_trio.domain.step import RowStart, StepPlan, StepResult
from semantic_trio.testing import FakeRunner
from tests.http.serving import anthropic_body, openai_body, post, running, served

MODEL = SamplingParams(temperature=0.7, top_p=0.8, top_k=20, min_p=0.05, repetition_penalty=1.05)
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/messages": anthropic_body(),
    "/v1/chat/completions": openai_body(),
    "/v1/completions": {"model": "org/tiny", "prompt": "x", "max_tokens": 3},
    "/v1/responses": {"model": "org/tiny", "input": "x", "max_output_tokens": 3},
    "/v1/agents/ada/generate": {"message": "x", "max_tokens": 3},
}
OPENAI = [path for path in REQUESTS if path != "/v1/messages"]


@attrs.define(eq=False)
class Watched(FakeRunner):
    """Keeps how its rows were opened."""

    opened: list[RowStart] = attrs.field(factory=list)

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        self.opened += plan.open
        return await super().step(plan)


async def opened(path: str, fields: dict[str, Any], model: SamplingParams = MODEL) -> RowStart:
    runner = Watched()
    async with running(served(runner, sampling=model)) as server:
        await post(server.app, "/v1/agents", {"id": "ada"})
        assert (await post(server.app, path, REQUESTS[path] | fields)).status == 200
    return runner.opened[-1]


@pytest.mark.parametrize("path", REQUESTS)
async def test_the_models_defaults_are_used_where_a_request_says_nothing(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    row = await opened(path, {})

    assert row.sampling == MODEL
    assert row.penalised, "the prompt's tokens are penalised too"


@pytest.mark.parametrize("path", REQUESTS)
async def test_a_model_that_says_nothing_is_sampled_as_the_apis_say(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    row = await opened(path, {}, API_SAMPLING)

    assert row.sampling == SamplingParams(temperature=1.0)
    assert row.penalised == ()


@pytest.mark.parametrize("path", REQUESTS)
@pytest.mark.parametrize(
    ("field", "value", "in_force"),
    [("temperature", 0, 0.0), ("temperature", 1.0, 1.0), ("top_p", 1.0, 1.0), ("top_k", 0, 0)],
)
async def test_what_a_request_says_is_in_force_and_the_rest_is_the_models(
    path: str, field: str, value: float, in_force: float, autojump_clock: trio.testing.MockClock
) -> None:
    assert (await opened(path, {field: value})).sampling == attrs.evolve(MODEL, **{field: in_force})


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize(
    ("field", "value", "in_force"),
    [
        ("top_k", -1, 0),
        ("min_p", 0, 0.0),
        ("repetition_penalty", 1, 1.0),
        ("repetition_penalty", 1.3, 1.3),
    ],
)
async def test_extensions_are_in_force_too(
    path: str, field: str, value: float, in_force: float, autojump_clock: trio.testing.MockClock
) -> None:
    row = await opened(path, {field: value})

    assert row.sampling == attrs.evolve(MODEL, **{field: in_force})
    assert bool(row.penalised) is (row.sampling.repetition_penalty != 1.0)


@pytest.mark.parametrize("path", OPENAI)
@pytest.mark.parametrize("penalty", [0, -1, 11, "x"])
async def test_a_repetition_penalty_that_cannot_be_is_refused(
    path: str, penalty: object, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/agents", {"id": "ada"})
        call = await post(server.app, path, REQUESTS[path] | {"repetition_penalty": penalty})

    assert (call.status, call.json["error"]["param"]) == (400, "repetition_penalty")  # type: ignore[index]


async def test_a_response_tells_the_sampling_in_force(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), sampling=MODEL)) as server:
        plain = await post(server.app, "/v1/responses", REQUESTS["/v1/responses"])
        own = await post(
            server.app, "/v1/responses", REQUESTS["/v1/responses"] | {"temperature": 0.1}
        )

    assert (plain.json["temperature"], plain.json["top_p"]) == (0.7, 0.8)
    assert (own.json["temperature"], own.json["top_p"]) == (0.1, 0.8)


async def test_an_agent_that_never_ends_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    """A small model that is sampled at random may go on to the end of its context, for minutes."""
    async with running(served(FakeRunner())) as server:
        await post(server.app, "/v1/agents", {"id": "ada"})
        call = await post(server.app, "/v1/agents/ada/generate", {"message": "hi"})

    assert call.json["finish_reason"] == "max_tokens"
    assert call.json["usage"]["completion_tokens"] == DEFAULT_TOKENS  # type: ignore[index]
