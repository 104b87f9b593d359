"""Turns of agents in unit tests: what a turn computes, says and reuses."""

from semantic_trio.application.generation import Generation
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.reuse import Reuse
from semantic_trio.testing import FakeRunner
from tests.unit.conftest import Bench

RECURRENT = ModelCacheSpec(
    "recurrent",
    (
        LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8),
        LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64),
    ),
    block_tokens=16,
    row_slack_tokens=32,
)


def computed(runner: FakeRunner) -> int:
    """Prompt tokens read since the runner began."""
    return sum(plan.prompt_tokens for plan in runner.plans)


async def reuse(generation: Generation) -> Reuse:
    return (await generation.result()).finished.reuse


async def said(
    bench: Bench, tokens: tuple[int, ...], count: int = 10, **more: object
) -> tuple[int, ...]:
    """A turn, and the whole history after it."""
    return tokens + (await bench.submit(tokens, count, **more).result()).tokens
