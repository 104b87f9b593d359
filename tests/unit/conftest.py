"""What unit tests share: an engine on the virtual clock."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from semantic_trio.application.engine import Engine
from semantic_trio.application.handle import Generation
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.testing import ATTENTION_ONLY, ByteCodec, FakeRunner

LIMITS = Limits(context_length=4096, max_rows=8, chunk_tokens=512, max_stall_seconds=0.25)


BUDGET = 8 * 16 * 4096  # bytes: far more than the tests' rows need


def scheduler(limits: Limits = LIMITS, spec: ModelCacheSpec = ATTENTION_ONLY, budget: int = BUDGET) -> Scheduler:
    return Scheduler(limits, Memory(spec, budget, limits.chunk_tokens))


def prompt(tokens: int, salt: int = 0) -> tuple[int, ...]:
    return tuple((i + salt) % 250 for i in range(tokens))


@attrs.define(eq=False)
class Bench:
    """An engine under test and a short way to ask it for something."""

    engine: Engine
    runner: FakeRunner
    _count: int = 0

    def submit(self, tokens: tuple[int, ...], max_tokens: int = 10, **more: object) -> Generation:
        self._count += 1
        fields = {"seed": 1, "stop_tokens": ByteCodec.stop_tokens, "sampling": SamplingParams()} | more
        request = GenerationRequest(request_id=f"r{self._count}", prompt=tokens, max_tokens=max_tokens, **fields)  # type: ignore[arg-type]
        return self.engine.submit(request, ByteCodec().decoder())


StartEngine = Callable[..., Awaitable[Bench]]


@pytest.fixture
def start_engine(nursery: trio.Nursery) -> StartEngine:
    """Start an engine in the test's nursery; keywords are its settings or the limits'."""

    async def start(runner: FakeRunner | None = None, **settings: object) -> Bench:
        runner = runner or FakeRunner()
        budget = settings.pop("budget", BUDGET)
        assert isinstance(budget, int)
        limits = attrs.evolve(LIMITS, **{k: settings.pop(k) for k in list(settings) if k in attrs.fields_dict(Limits)})  # type: ignore[arg-type]
        defaults = {"queue_limit": 64, "step_deadline_seconds": 60.0, "batch_window_seconds": 0.01}
        engine = Engine(runner, scheduler(limits, runner.spec, budget), **(defaults | settings))  # type: ignore[arg-type]
        await nursery.start(engine.run)
        return Bench(engine, runner)

    return start
