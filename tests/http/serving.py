"""The real application over a fake model, driven through ASGI or over sockets."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import attrs
import trio
from quart_trio import QuartTrio

from semantic_trio.adapters.http.app import create_app
from semantic_trio.adapters.http.middleware.starting import StartingApp
from semantic_trio.adapters.http.openai.responses.active_responses import ActiveResponses
from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.serving.app_state import AppState, HttpSettings
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.sockets.server import serve_http
from semantic_trio.adapters.metrics import Metrics, WatchedModel
from semantic_trio.application.adapters import AdapterLoader, Adapters, AdapterShelf
from semantic_trio.application.engine import Engine
from semantic_trio.application.model_entry import ModelClose, ModelLimits
from semantic_trio.application.models import ModelRegistry
from semantic_trio.application.observers import Observers
from semantic_trio.application.persistence import Persistence
from semantic_trio.application.threads import Arguments, InThread, Result
from semantic_trio.domain.embedding import APPROXIMATE, EmbeddingForm
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.domain.scheduler import Limits
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.ports.text import TextCodec
from semantic_trio.testing import ByteCodec, FakeRunner, MemoryFiles, MemoryResponses
from tests.engines import new_engine

CONTEXT_LENGTH = 4096
LIMITS = Limits(context_length=CONTEXT_LENGTH, max_rows=8, chunk_tokens=256, max_stall_seconds=0.25)


@attrs.define(eq=False)
class Served:
    """An application and what is behind it."""

    app: QuartTrio
    engine: Engine
    runner: FakeRunner
    metrics: Metrics
    persistence: Persistence
    state: AppState
    responses: MemoryResponses
    active: ActiveResponses
    observers: Observers
    stopped: trio.Event  # set when an operator has the server drain


async def in_line(function: Callable[[*Arguments], Result], /, *arguments: *Arguments) -> Result:
    """See `InThread`."""
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@attrs.define(eq=False)
class FakeHost:
    """A `ModelOpener` of fake models, whose engines run until they are closed."""

    models: dict[str, Callable[[], ServedModel]]
    open_seconds: float = 1.0
    failing: set[str] = attrs.field(factory=set)  # found, and cannot be opened
    metrics: Metrics | None = None

    async def needed_bytes(self, name: str) -> int:
        """See `ModelOpener.needed_bytes`."""
        await trio.lowlevel.checkpoint()
        if name not in self.models:
            raise ModelNotFoundError(name, "not on this machine")
        return 1 << 24

    async def serve(
        self,
        name: str,
        closing: ModelClose,
        *,
        task_status: trio.TaskStatus[ServedModel] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `ModelOpener.serve`."""
        await self.needed_bytes(name)
        await trio.sleep(self.open_seconds)
        if name in self.failing:
            raise ModelNotFoundError(name, "its weights are damaged")
        model = self.models[name]()
        async with trio.open_nursery() as nursery:
            await _run(model, nursery)
            watched = WatchedModel(model.engine, model.persistence)
            if self.metrics is not None:
                self.metrics.watch(watched)
            task_status.started(model)
            await closing.wait()
            if self.metrics is not None:
                self.metrics.unwatch(watched)
            if model.engine.memory.disk.exists:
                await model.engine.settle()
                await model.persistence.flush(10)
            nursery.cancel_scope.cancel()


async def _run(model: ServedModel, nursery: trio.Nursery) -> None:
    await nursery.start(model.engine.run)
    if model.engine.memory.disk.exists:
        await model.persistence.open()
        await nursery.start(model.persistence.run)


def fake_model(
    name: str,
    runner: FakeRunner,
    *,
    disk_bytes: int = 0,
    files: CacheFiles | None = None,
    context_length: int = CONTEXT_LENGTH,
    embeds: EmbeddingForm = APPROXIMATE,
) -> ServedModel:
    """A model beside the main one."""
    codec = ByteCodec()
    engine = new_engine(
        runner,
        attrs.evolve(LIMITS, context_length=context_length),
        budget=1 << 24,
        disk=disk_bytes,
        text_fingerprint=codec.fingerprint,
    )
    persistence = Persistence(
        engine.memory, runner, files or MemoryFiles(), engine.nudge, in_thread=in_line
    )
    return ServedModel(
        ModelCard(name, name, context_length, 1_700_000_000, embeds=embeds),
        engine,
        codec,
        persistence,
        in_line,
    )


def served(  # noqa: PLR0913  # all that tests vary
    runner: FakeRunner,
    settings: HttpSettings | None = None,
    *,
    rows: int = 8,
    queue_limit: int = 64,
    context_length: int = CONTEXT_LENGTH,
    budget_bytes: int = 1 << 24,
    codec: TextCodec | None = None,
    kind: type[AppState] = AppState,
    disk_bytes: int = 0,
    files: CacheFiles | None = None,
    vocabulary: int = 0,
    compilers: InThread = in_line,
    responses: MemoryResponses | None = None,
    sampling: SamplingParams = API_SAMPLING,
    host: FakeHost | None = None,
    others: tuple[str, ...] = (),
    limits_of_models: ModelLimits | None = None,
    shelf: AdapterShelf | None = None,
    loader: AdapterLoader | None = None,
    embeds: EmbeddingForm = APPROXIMATE,
) -> Served:
    """An application whose engine is not running yet.

    Files are worked on in line: virtual time knows nothing of threads.
    """
    codec, observers = codec or ByteCodec(), Observers()
    engine = new_engine(
        runner,
        attrs.evolve(LIMITS, context_length=context_length, max_rows=rows),
        budget=budget_bytes,
        disk=disk_bytes,
        text_fingerprint=codec.fingerprint,
        queue_limit=queue_limit,
        observer=observers,
    )
    card = ModelCard(
        "org/tiny",
        "Tiny",
        context_length,
        1_700_000_000,
        vocabulary=vocabulary,
        sampling=sampling,
        embeds=embeds,
    )
    persistence = Persistence(
        engine.memory,
        runner,
        files or MemoryFiles(),
        engine.nudge,
        in_thread=in_line,
        observer=observers,
    )
    metrics = Metrics()
    metrics.watch(WatchedModel(engine, persistence))
    observers.add(metrics)
    store, stopped = responses or MemoryResponses(), trio.Event()
    names = ModelNames("org/tiny", others, {"tiny": "org/tiny"})
    if host is not None:
        host.metrics = metrics
    registry = ModelRegistry[ServedModel](
        host or FakeHost({}), names, limits_of_models or ModelLimits(), observers, metrics.lookups
    )
    adapters = (
        Adapters("org/tiny", shelf, loader) if shelf is not None and loader is not None else None
    )
    registry.models.adopt(
        "org/tiny", ServedModel(card, engine, codec, persistence, compilers, adapters=adapters)
    )
    state = kind(
        registry=registry,
        metrics=metrics,
        observer=observers,
        version="0.0.0",
        stop=stopped.set,
        settings=settings or HttpSettings(),
        shelf=shelf,
    )
    records = ResponsesState(ResponseStoreClient(lambda: store, in_line))
    return Served(
        create_app(state, records),
        engine,
        runner,
        metrics,
        persistence,
        state,
        store,
        records.active,
        observers,
        stopped,
    )


async def _close_main(registry: ModelRegistry[ServedModel]) -> None:
    """Close the model that the application began with, when it is told to: nothing has opened
    it.
    """
    entry = registry.models.entry(registry.names.main)
    await entry.closing.wait()
    entry.closed.set()


@asynccontextmanager
async def running(served_app: Served) -> AsyncIterator[Served]:
    """The engine runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(served_app.state.registry.run)
        nursery.start_soon(_close_main, served_app.state.registry)
        await nursery.start(served_app.engine.run)
        await nursery.start(served_app.active.run)
        if served_app.engine.memory.disk.exists:
            await served_app.persistence.open()
            await nursery.start(served_app.persistence.run)
        yield served_app
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def listening(
    served_app: Served, *, write_timeout_seconds: float = 1.0, graceful_seconds: float = 0.2
) -> AsyncIterator[int]:
    """The engine runs and the server listens; the port."""
    shutdown = trio.Event()
    async with running(served_app), trio.open_nursery() as nursery:

        async def serve(*, task_status: trio.TaskStatus[int]) -> None:
            await serve_http(
                served_app.app,
                host="127.0.0.1",
                port=0,
                write_timeout_seconds=write_timeout_seconds,
                graceful_seconds=graceful_seconds,
                shutdown=shutdown,
                task_status=task_status,
            )

        yield await nursery.start(serve)
        shutdown.set()


@attrs.define(eq=False)
class Call:
    """One request made through ASGI, and what came back of it."""

    app: QuartTrio | StartingApp
    method: str
    path: str
    body: bytes = b""
    headers: dict[str, str] = attrs.field(factory=dict)
    query: bytes = b""
    status: int = attrs.field(init=False, default=0)
    answer_headers: dict[str, str] = attrs.field(init=False, factory=dict)
    # time on trio's clock, bytes
    chunks: list[tuple[float, bytes]] = attrs.field(init=False, factory=list)
    is_complete: bool = attrs.field(init=False, default=False)
    gone: trio.Event = attrs.field(init=False, factory=trio.Event)  # set it to leave
    _pieces: list[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._pieces = [self.body]

    @property
    def content(self) -> bytes:
        """All bytes of the answer."""
        return b"".join(chunk for _, chunk in self.chunks)

    @property
    def json(self) -> dict[str, object]:
        """The answer, decoded."""
        decoded: dict[str, object] = json.loads(self.content)
        return decoded

    async def run(self) -> "Call":
        """Make the request; returns when the application does."""
        headers = {"host": "localhost", **self.headers}
        scope = {
            "type": "http",
            "asgi": {"spec_version": "2.1", "version": "3.0"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
            "state": {},
            "extensions": {},
        }
        await self.app(scope, self._receive, self._send)  # type: ignore[arg-type]
        return self

    async def _receive(self) -> dict[str, object]:
        if self._pieces:
            piece = self._pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self._pieces)}
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, object]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]  # type: ignore[assignment]
            self.answer_headers = {n.decode().lower(): v.decode() for n, v in message["headers"]}  # type: ignore[attr-defined]
        elif message["type"] == "http.response.body":
            if message.get("body"):
                self.chunks.append((trio.current_time(), message["body"]))  # type: ignore[arg-type]
            self.is_complete = not message.get("more_body")


async def post(app: QuartTrio, path: str, body: object, **headers: str) -> Call:
    """POST a JSON body."""
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await Call(
        app, "POST", path, encoded, {"content-type": "application/json", **headers}
    ).run()


async def get(app: QuartTrio, path: str, **headers: str) -> Call:
    """GET a path."""
    return await Call(app, "GET", path, headers=headers).run()


def anthropic_body(text: str = "hi", **fields: object) -> dict[str, object]:
    """A body for the Messages API."""
    return {
        "model": "org/tiny",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def openai_body(text: str = "hi", **fields: object) -> dict[str, object]:
    """A body for the Chat Completions API."""
    return {
        "model": "org/tiny",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
