"""What unit tests share: an engine on the virtual clock."""

from collections.abc import Awaitable, Callable

import attrs
import pytest
import trio

from semantic_trio.application.engine import Engine
from semantic_trio.application.generation import Generation
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.reuse import Reuse
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.testing import ATTENTION_ONLY, ByteCodec, FakeRunner, MemoryFiles
from tests.engines import LIMITS, new_engine

BUDGET = 8 * 16 * 4096  # bytes: far more than the tests' rows need


def scheduler(
    limits: Limits = LIMITS,
    spec: ModelCacheSpec = ATTENTION_ONLY,
    budget: int = BUDGET,
    speculation: Speculation | None = None,
) -> Scheduler:
    return Scheduler(
        limits, Memory(spec, budget, limits.chunk_tokens), speculation or Speculation()
    )


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
        fields = {
            "seed": 1,
            "stop_tokens": ByteCodec.stop_tokens,
            "sampling": SamplingParams(),
        } | more
        request = GenerationRequest(
            request_id=f"r{self._count}", prompt=tokens, max_tokens=max_tokens, **fields
        )  # type: ignore[arg-type]
        return self.engine.submit(request, ByteCodec().decoder())


StartEngine = Callable[..., Awaitable[Bench]]


@pytest.fixture
def start_engine(nursery: trio.Nursery) -> StartEngine:
    """Start an engine in the test's nursery; keywords are its settings or the limits'."""

    async def start(runner: FakeRunner | None = None, **settings: object) -> Bench:
        runner = runner or FakeRunner()
        limits = attrs.evolve(
            LIMITS, **{k: settings.pop(k) for k in list(settings) if k in attrs.fields_dict(Limits)}
        )  # type: ignore[arg-type]
        engine = new_engine(runner, limits, **({"budget": BUDGET} | settings))  # type: ignore[arg-type]
        await nursery.start(engine.run)
        return Bench(engine, runner)

    return start


@attrs.define(eq=False)
class Disks:
    """Where files are worked on: in line, told, and as slowly as is wanted."""

    seconds: dict[str, float] = attrs.field(factory=dict)  # by method
    calls: list[tuple[str, object]] = attrs.field(factory=list)  # methods, and what for

    async def __call__(self, function: Callable[..., object], *arguments: object) -> object:
        self.calls.append((function.__name__, arguments[0] if arguments else None))
        await trio.sleep(self.seconds.get(function.__name__, 0))
        return function(*arguments)

    def named(self, method: str) -> list[object]:
        """What a method was called for."""
        return [what for name, what in self.calls if name == method]


@attrs.define(eq=False)
class Server(Bench):
    """An engine with a disk tier: a process, as far as memory goes."""

    persistence: Persistence = attrs.field(kw_only=True)
    files: MemoryFiles = attrs.field(kw_only=True)
    disks: Disks = attrs.field(kw_only=True)
    _scope: trio.CancelScope = attrs.field(kw_only=True)

    @property
    def memory(self) -> Memory:
        return self.engine.memory

    async def said(
        self, tokens: tuple[int, ...], count: int = 10, **more: object
    ) -> tuple[int, ...]:
        """A turn, and the whole history after it."""
        return tokens + (await self.submit(tokens, count, **more).result()).tokens

    async def reuse(self, tokens: tuple[int, ...], count: int = 10, **more: object) -> Reuse:
        """A turn, and what it reused."""
        return (await self.submit(tokens, count, **more).result()).finished.reuse

    async def settle(self) -> int:
        """What is remembered is on disk; how much is not."""
        await self.engine.settle()
        waiting = await self.persistence.flush(3600)
        self.memory.audit()
        return waiting

    async def cool(self) -> None:
        """What is remembered is on disk, and nowhere else."""
        await self.settle()
        self.memory.store.evict_all()
        await self.engine.settle()

    def crash(self) -> None:
        """Its files stay."""
        self._scope.cancel()

    async def end(self) -> None:
        """The process ends as it should."""
        assert await self.settle() == 0
        assert self.engine.discrepancies == 0
        self.crash()


StartServer = Callable[..., Awaitable[Server]]


@pytest.fixture
def start_server(nursery: trio.Nursery) -> StartServer:
    """Start an engine with a disk tier over files in the test's nursery; keywords are its settings,
    the limits' or the persistence's.
    """

    async def serve(server: Server, *, task_status: trio.TaskStatus[None]) -> None:
        async with trio.open_nursery() as inner:
            server._scope = inner.cancel_scope
            await inner.start(server.engine.run)
            await server.persistence.open()
            await inner.start(server.persistence.run)
            task_status.started()

    async def start(
        files: MemoryFiles | None = None,
        runner: FakeRunner | None = None,
        *,
        budget: int = BUDGET,
        disk: int = 1 << 30,
        max_agents: int = 1000,
        **settings: object,
    ) -> Server:
        runner, files, disks = runner or FakeRunner(), files or MemoryFiles(), Disks()
        limits = attrs.evolve(
            LIMITS, **{k: settings.pop(k) for k in list(settings) if k in attrs.fields_dict(Limits)}
        )  # type: ignore[arg-type]
        engine = new_engine(runner, limits, budget=budget, max_agents=max_agents, disk=disk)
        persistence = Persistence(
            engine.memory,
            runner,
            files,
            engine.nudge,
            in_thread=disks,
            **({"readers": 4} | settings),
        )  # type: ignore[arg-type]
        server = Server(
            engine,
            runner,
            persistence=persistence,
            files=files,
            disks=disks,
            scope=nursery.cancel_scope,
        )
        await nursery.start(serve, server)
        return server

    return start
