"""Drives a runner step by step, and compares what it drew."""

import math

from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.step import Chunk, Decode, RowClose, RowStart, SampledToken, StepPlan
from semantic_trio.ports.runner import ModelRunner

GREEDY = SamplingParams()


def prompt(length: int, salt: int = 0) -> tuple[int, ...]:
    return tuple((7 * i + 13 * salt + i * i) % 250 for i in range(length))


class Script:
    """Drives a runner and keeps what it drew, by row."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.drawn: dict[int, list[SampledToken]] = {}

    async def step(self, plan: StepPlan) -> None:
        result = await self.runner.step(plan)
        for one in result.sampled:
            self.drawn.setdefault(one.row, []).append(one)

    async def land(self) -> None:
        await self.step(StepPlan())

    async def generate(
        self,
        row: int,
        tokens: tuple[int, ...],
        count: int,
        start: RowStart | None = None,
        chunk: int = 1000,
    ) -> list[SampledToken]:
        """One row alone, its prompt in pieces of `chunk`."""
        pieces = [tokens[at : at + chunk] for at in range(0, len(tokens), chunk)]
        opened: tuple[RowStart, ...] = (start or RowStart(row, 0, GREEDY),)
        for number, piece in enumerate(pieces):
            draws = 0 if number == len(pieces) - 1 else None
            await self.step(
                StepPlan(open=opened, prefill=(Chunk(row, piece, number * chunk, draws),))
            )
            opened = ()
        for index in range(1, count):
            await self.step(StepPlan(decode=(Decode(row, index),)))
        await self.land()
        await self.step(StepPlan(close=(RowClose(row),)))
        return self.drawn[row]


def logprobs(drawn: list[SampledToken]) -> list[float]:
    return [one.logprob for one in drawn]


def tokens(drawn: list[SampledToken]) -> list[int]:
    return [one.token for one in drawn]


def close(one: list[float], other: list[float]) -> bool:
    """Equal to 1e-4 of the range that log-probabilities span: at least 3 in each of these models.

    Honest noise is a thirtieth of it.
    """
    return len(one) == len(other) and all(
        math.isclose(a, b, rel_tol=0, abs_tol=3e-4) for a, b in zip(one, other, strict=True)
    )
