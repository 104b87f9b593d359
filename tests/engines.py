"""Engines for tests: one way to make an engine, whatever computes its steps, and one to have it run
for a while.

Knows engines and their memory. Knows no protocol and no model: of a runner it takes the `spec`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from semantic_trio.application.engine import Engine
from semantic_trio.application.observers import Observers
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.ports.observing import Observer
from semantic_trio.ports.runner import ModelRunner

LIMITS = Limits(context_length=4096, max_rows=8, chunk_tokens=512, max_stall_seconds=0.25)
# Of real models. Their passes take real time: with a bound on stalls, the size of chunks would
# depend on how busy the machine is.
UNBOUND_LIMITS = Limits(context_length=2048, max_rows=4, chunk_tokens=128, max_stall_seconds=10.0)
# Bytes of keys and values: far more than the rows of a test need.
ROOMY = 1 << 30


def new_engine(  # noqa: PLR0913 - what tests set, by name
    runner: ModelRunner,
    limits: Limits = LIMITS,
    *,
    budget: int = ROOMY,
    max_agents: int = 1000,
    disk: int = 0,  # bytes of the disk tier; 0: there is none
    text_fingerprint: str = "",
    speculation: Speculation | None = None,
    queue_limit: int = 64,
    step_deadline_seconds: float = 60.0,
    batch_window_seconds: float = 0.01,
    observer: Observer | None = None,
) -> Engine:
    """An engine that does not run yet, with an empty memory."""
    memory = Memory(
        runner.spec, budget, limits.chunk_tokens, max_agents, Disk(disk), text_fingerprint
    )
    return Engine(
        runner,
        Scheduler(limits, memory, speculation or Speculation()),
        queue_limit=queue_limit,
        step_deadline_seconds=step_deadline_seconds,
        batch_window_seconds=batch_window_seconds,
        observer=observer or Observers(),
    )


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """Have an engine run inside.

    At the end its books agree with its device, which is then as new.
    """
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        yield engine
        await engine.settle()
        engine.memory.audit()
        assert engine.discrepancies == 0
        nursery.cancel_scope.cancel()
    await engine.runner.reset()
