"""The tree of tasks of one server process, built by hand; and how it is taken down again.

    device       one lifelong thread for MLX
    engine       the step loop
    persistence  what is new goes to disk, what is wanted comes back
    running      responses that are made in the background
    http         connections and their handlers
    signals      the first starts a drain, a later one ends the process at once

What is used outlives its users: http closes before the engine, the engine before what it remembers is on disk, then the device, and the database of
responses last. Only http begins early: clients and supervisors are told that the model is being loaded.
"""

import gc
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import structlog
import trio

import semantic_trio
from semantic_trio.adapters.catalogue.pooling import embedding_form
from semantic_trio.adapters.catalogue.sampling import sampling_defaults
from semantic_trio.adapters.disk import CacheLock, ModelFiles
from semantic_trio.adapters.http.app import create_app
from semantic_trio.adapters.http.middleware.starting import StartingApp
from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.serving.app_state import AppState, HttpSettings
from semantic_trio.adapters.http.serving.served_model import ModelCard, ServedModel
from semantic_trio.adapters.http.sockets.server import serve_http
from semantic_trio.adapters.metrics import Build, Metrics
from semantic_trio.adapters.mlx.budget import usual_cache_mb
from semantic_trio.adapters.mlx.chat_template import chat_program
from semantic_trio.adapters.mlx.device import Device, last_act
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.mlx.runner import MlxRunner, load_runner
from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
from semantic_trio.adapters.text.codec import TokenizerCodec, load_codec
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.authority import authority
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import EngineDeadError
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.domain.token_histories import TokenHistories
from semantic_trio.entrypoints.address import check_address
from semantic_trio.entrypoints.clock import RunningClock
from semantic_trio.entrypoints.commit import commit
from semantic_trio.entrypoints.ending import FLUSH_SECONDS, PERSIST_SECONDS, STORE_SECONDS
from semantic_trio.entrypoints.locking import cache_locked, holder
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.signals import watch_signals
from semantic_trio.entrypoints.storing import responses_stored
from semantic_trio.testing import Rule, ScriptedRunner

log = structlog.get_logger(__name__)

# Tokens read and drawn before the first request: MLX compiles its kernels, and the scheduler learns how fast this machine is.
WARM_UP_PROMPT, WARM_UP_TOKENS = 96, 4
MIB = 1 << 20
# How long a worker thread that makes a prompt may keep the interpreter from the event loop; Python's own 5 ms are seen in streams.
SWITCH_SECONDS = 0.001


@attrs.define(eq=False)
class Server:
    """One server process: its settings and the events that end it."""

    settings: Settings
    model_path: Path
    announce: Callable[[str], None]  # called with the URL when clients can connect
    script: tuple[Rule, ...] | None = None  # answers to give instead of the model's
    _stop: trio.Event = attrs.field(init=False, factory=trio.Event)
    _lock: CacheLock | None = attrs.field(init=False, default=None)
    _app: StartingApp = attrs.field(init=False, factory=StartingApp)
    _port: int = attrs.field(init=False, default=0)
    _http_ends: trio.Event = attrs.field(init=False, factory=trio.Event)
    _http_closed: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def run(self) -> None:
        """Serve until a signal or an operator ends it, or until the engine dies."""
        await check_address(self.settings.host, self.settings.port)
        with cache_locked(self.settings) as self._lock:
            async with responses_stored(self.settings, self._claim) as records:
                await self._run(records)

    def _claim(self) -> None:
        """Have the lock on the cache directory, if this process is the one that has it. Raises as `CacheLock.claim` does."""
        if self._lock is not None:
            self._lock.claim()

    async def _run(self, records: ResponseStoreClient) -> None:
        device = Device(last_act)
        async with trio.open_nursery() as device_nursery:
            await device_nursery.start(device.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch_signals, self._stop.set, self.settings.shutdown_timeout_seconds)
                self._port = await nursery.start(self._serve_http)
                log.info("listening, and loading the model", host=self.settings.host, port=self._port)
                self._app.phase = "loading the model"
                started = trio.current_time()
                runner, loaded = await load_runner(device, self.model_path, self.settings.kv_bits)
                codec = await trio.to_thread.run_sync(load_codec, self.model_path, tool_syntax, chat_program)
                load_seconds = trio.current_time() - started
                loaded = attrs.evolve(loaded, context_length=min(loaded.context_length, self.settings.context_length or loaded.context_length))
                await self._serve_model(self._scripted(codec) or runner, loaded, codec, records, load_seconds)
                nursery.cancel_scope.cancel()
            device.stop()

    def _scripted(self, codec: TokenizerCodec) -> ScriptedRunner | None:
        if self.script is None:
            return None
        log.warning("answers are scripted: no model is asked", rules=len(self.script))
        return ScriptedRunner(script=self.script, encode=codec.encode_text, decode=codec.decode)

    async def _serve_model(
        self, runner: MlxRunner | ScriptedRunner, loaded: LoadedModel, codec: TokenizerCodec, records: ResponseStoreClient, load_seconds: float
    ) -> None:
        has_disk = self._lock is not None
        engine = self._engine(runner, loaded, Disk(self.settings.disk_budget_mb * MIB if has_disk else 0), codec.fingerprint)
        persistence = self._persistence(engine, runner)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._supervise, engine)
            if has_disk:
                self._app.phase = "reading the list of what is on disk"
                await persistence.open()
                await nursery.start(persistence.run)
            self._app.phase = "warming up"
            await _warm_up(engine, codec)
            model = ServedModel(self._card(loaded), engine, codec, persistence)
            build = Build(semantic_trio.__version__, await trio.to_thread.run_sync(commit))
            metrics = Metrics(engine, runner.memory, persistence, codec.tally.counts, build)
            metrics.model_loaded(load_seconds)
            state = self._state(model, metrics)
            stopped_at = await self._serve_clients(engine, state, ResponsesState(records))
            if has_disk:
                await self._persist(engine, persistence, stopped_at)
            nursery.cancel_scope.cancel()

    async def _serve_http(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Serve connections from before the model is loaded until the drain is over. Reports the port."""
        try:
            await serve_http(
                self._app,
                host=self.settings.host,
                port=self.settings.port,
                write_timeout_seconds=self.settings.write_timeout_seconds,
                graceful_seconds=FLUSH_SECONDS,
                shutdown=self._http_ends,
                task_status=task_status,
            )
        finally:
            self._http_closed.set()

    async def _serve_clients(self, engine: Engine, state: AppState, responses: ResponsesState) -> float:
        """Serve the model until told to stop; return when that was."""
        async with trio.open_nursery() as nursery:
            await nursery.start(responses.active.run)
            self._app.app = create_app(state, responses)
            gc.freeze()  # what was imported stays: looking at all of it again stops the event loop for 100 ms
            if self._lock is not None:
                self._lock.tell(holder(self.settings, self._port))
            self.announce(f"http://{authority(self.settings.host, self._port)}")
            await self._stop.wait()
            stopped_at = trio.current_time()
            await engine.drain(self.settings.shutdown_timeout_seconds)
            responses.active.stop()
            self._http_ends.set()
            # A database that hangs would hold responses in the background, and so the end.
            nursery.cancel_scope.deadline = trio.current_time() + FLUSH_SECONDS + self.settings.write_timeout_seconds + STORE_SECONDS
            await self._http_closed.wait()
        return stopped_at

    async def _persist(self, engine: Engine, persistence: Persistence, stopped_at: float) -> None:
        """Have everything that is remembered written within what is left of the time to end."""
        with trio.move_on_after(self._seconds_left(stopped_at)):
            await engine.settle()
        waiting = await persistence.flush(self._seconds_left(stopped_at))
        log.info("memory is on disk" if not waiting else "memory is on disk in part", bytes=engine.memory.disk.used, not_written=waiting)

    def _seconds_left(self, stopped_at: float) -> float:
        """Seconds that are left of the time to end, and never fewer than memory gets in any case."""
        return max(stopped_at + self.settings.shutdown_timeout_seconds - trio.current_time(), PERSIST_SECONDS)

    async def _supervise(self, engine: Engine, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the engine. When it dies, streams get their error events before the process ends."""
        try:
            await engine.run(task_status=task_status)
        except EngineDeadError:
            self._stop.set()
            await self._http_closed.wait()
            raise

    def _engine(self, runner: MlxRunner | ScriptedRunner, loaded: LoadedModel, disk: Disk, text_fingerprint: str) -> Engine:
        limits = Limits(
            context_length=loaded.context_length,
            max_rows=self.settings.max_batch_size or runner.sizes.rows,
            chunk_tokens=self.settings.prefill_step_size or runner.sizes.prompt_tokens,
            max_stall_seconds=self.settings.max_decode_stall_ms / 1000,
        )
        budget, most_agents = (self.settings.cache_budget_mb or usual_cache_mb()) * MIB, self.settings.max_agents_in_memory
        memory = Memory(runner.spec, budget, limits.chunk_tokens, most_agents, disk, text_fingerprint)
        return Engine(
            runner,
            Scheduler(limits, memory, Speculation(self.settings.num_draft_tokens, runner.sizes.decode_tokens)),
            queue_limit=self.settings.queue_limit,
            step_deadline_seconds=self.settings.step_deadline_seconds,
            batch_window_seconds=self.settings.batch_window_ms / 1000,
        )

    def _persistence(self, engine: Engine, runner: MlxRunner | ScriptedRunner) -> Persistence:
        return Persistence(
            engine.memory,
            TokenHistories(),
            runner,
            ModelFiles(self.settings.cache_dir, runner.spec.fingerprint, self.settings.model_id, self._claim),
            engine.nudge,
            engine.scheduler.prefill_pace.seconds,
            floor_bytes=self.settings.disk_floor_mb * MIB,
            import_trust=self.settings.import_trust,
            allowance=Allowance(self.settings.disk_writes_mb_per_day * MIB),
        )

    def _card(self, loaded: LoadedModel) -> ModelCard:
        name = self.settings.model_id
        created_at, embeds = int(self.model_path.stat().st_mtime), embedding_form(self.model_path)
        sampling = sampling_defaults(self.model_path)
        return ModelCard(name, name, loaded.context_length, created_at, vocabulary=loaded.vocab_size, embeds=embeds, sampling=sampling)

    def _state(self, model: ServedModel, metrics: Metrics) -> AppState:
        http = HttpSettings(
            host=self.settings.host,
            allow_remote=self.settings.allow_remote,
            allowed_hosts=self.settings.allowed_hosts,
            allowed_origins=self.settings.allowed_origins,
            api_key=self.settings.key,
            max_body_bytes=self.settings.max_body_bytes,
            ping_seconds=self.settings.ping_seconds,
            shutdown_timeout_seconds=self.settings.shutdown_timeout_seconds,
            log_prompts=self.settings.log_prompts,
            refuse_unreadable=self.settings.refuse_unreadable,
        )
        return AppState(model=model, metrics=metrics, version=semantic_trio.__version__, stop=self._stop.set, settings=http)


def run(settings: Settings, model_path: Path, announce: Callable[[str], None], script: tuple[Rule, ...] | None = None) -> None:
    """Serve until told to stop. Raises what ended it, in groups."""
    sys.setswitchinterval(SWITCH_SECONDS)
    trio.run(Server(settings, model_path, announce, script).run, clock=RunningClock())


async def _warm_up(engine: Engine, codec: TokenizerCodec) -> None:
    """Run one generation before the first request. It is not remembered: a start must not depend on how many agents there are."""
    started = time.monotonic()
    sentence = codec.encode_text("The quick brown fox jumps over the lazy dog. ")
    prompt = tuple(sentence[i % len(sentence)] for i in range(min(WARM_UP_PROMPT, engine.scheduler.limits.context_length // 2)))
    request = GenerationRequest("warm-up", prompt, WARM_UP_TOKENS, seed=secrets.randbits(63), is_remembered=False)
    await engine.submit(request, codec.decoder()).result()
    log.info("warmed up", seconds=round(time.monotonic() - started, 2))
