"""Requests of both priorities in one scheduler."""

from collections.abc import Sequence as Many

from semantic_trio.application.generation import Generation
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.step import StepPlan
from tests.unit.conftest import StartEngine

BACKGROUND = Priority.BACKGROUND


# Seconds by which prompts may lengthen steps of one second: chunks are as large as `chunk_tokens`.
PATIENT = 1000.0


def rows_of_chunks(plans: Many[StepPlan]) -> list[set[int]]:
    """The rows whose prompts each step read."""
    return [{chunk.row for chunk in plan.prefill} for plan in plans if plan.prefill]


async def tokens_alone(
    start_engine: StartEngine, tokens: tuple[int, ...], count: int
) -> tuple[int, ...]:
    """The answer of an engine that has nothing else to do."""
    bench = await start_engine()
    return (await bench.submit(tokens, count).result()).tokens


async def first_token(generation: Generation) -> float:
    """When the first token came, in seconds after the submission."""
    await generation.events.receive()
    return generation.stamps[0] - generation.submitted_at
