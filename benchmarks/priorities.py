"""The first token of an interactive request beside background work, with and without priorities,
against the same request alone.

The engine and the scheduler as they are, on a virtual clock and a fake device with a price for a
step and for a prompt token: what priorities are worth, without what else a machine does. The
figures are the same on every machine.

Run: python benchmarks/priorities.py
"""

import argparse
import statistics

import trio
import trio.testing

from semantic_trio.application.engine import Engine
from semantic_trio.application.generation import Generation
from semantic_trio.domain.errors import OverloadedError
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.testing import ByteCodec, FakeRunner

# Seconds of a step and of a prompt token: an 8B model on a laptop with a GPU.
STEP_SECONDS, PROMPT_TOKEN_SECONDS = 0.03, 0.002
LIMITS = Limits(context_length=8192, max_rows=8, chunk_tokens=512, max_stall_seconds=0.25)
# Tokens of prompts and answers.
BACKGROUND_PROMPT, BACKGROUND_ANSWER, INTERACTIVE_PROMPT, INTERACTIVE_ANSWER = 1000, 200, 500, 20
# Seconds between two interactive requests, and their number.
PAUSE_SECONDS, REQUESTS = 17.0, 8
# Background requests beyond the batch, at any time.
WAITING = 8


def submit(engine: Engine, number: int, tokens: int, answer: int, priority: Priority) -> Generation:
    """Submit a request whose prompt begins like no other's."""
    prompt = tuple((number * 31 + place * (number % 97 + 1)) % 251 for place in range(tokens))
    request = GenerationRequest(f"r{number}", prompt, answer, seed=number, priority=priority)
    return engine.submit(request, ByteCodec().decoder())


async def keep_busy(engine: Engine, first: int, priority: Priority) -> None:
    """Submit one long request after another until cancelled."""
    number = first
    while True:
        try:
            generation = submit(engine, number, BACKGROUND_PROMPT, BACKGROUND_ANSWER, priority)
        except OverloadedError as error:
            await trio.sleep(error.retry_after_seconds)
            continue
        await generation.wait(float("inf"))
        number += 1000


async def first_tokens(background: Priority | None) -> list[float]:
    """Return the seconds to the first token of each interactive request.

    None: nothing runs beside them.
    """
    runner = FakeRunner(
        seconds_per_step=STEP_SECONDS, seconds_per_prompt_token=PROMPT_TOKEN_SECONDS
    )
    memory = Memory(runner.spec, 1 << 22, LIMITS.chunk_tokens)
    engine = Engine(
        runner,
        Scheduler(LIMITS, memory),
        queue_limit=64,
        step_deadline_seconds=60.0,
        batch_window_seconds=0.01,
    )
    seconds: list[float] = []
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        for number in range(LIMITS.max_rows + WAITING if background is not None else 0):
            nursery.start_soon(keep_busy, engine, number, background or Priority.BACKGROUND)
        for number in range(REQUESTS):
            await trio.sleep(PAUSE_SECONDS)
            generation = submit(
                engine,
                900_001 + number,
                INTERACTIVE_PROMPT,
                INTERACTIVE_ANSWER,
                Priority.INTERACTIVE,
            )
            await generation.wait(float("inf"))
            seconds.append(generation.stamps[0] - generation.submitted_at)
        nursery.cancel_scope.cancel()
    return seconds


def main() -> None:
    """Measure the three cases, and print a line for each."""
    argparse.ArgumentParser(
        description="First token beside background work, with and without priorities."
    ).parse_args()
    cases: dict[str, Priority | None] = {
        "alone": None,
        "beside background work": Priority.BACKGROUND,
        "beside as much interactive work": Priority.INTERACTIVE,
    }
    alone = 0.0
    for name, background in cases.items():
        found = trio.run(
            first_tokens, background, clock=trio.testing.MockClock(autojump_threshold=0)
        )
        median, longest = statistics.median(found), max(found)
        alone = alone or median
        print(
            f"{name}: first token after {median:.2f} s ({median / alone:.1f} times alone), at most "
            f"{longest:.2f} s ({longest / alone:.1f})"
        )


if __name__ == "__main__":
    main()
