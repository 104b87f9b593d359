"""A served model, from its files to free memory again: load, read the disk, warm up, serve; then
settle, flush and release.

Knows how the parts of a model fit. Knows nothing of HTTP, and nothing of other models.
"""

import contextlib
import gc
import secrets
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import structlog
import trio

from semantic_trio.adapters.catalogue.pooling import embedding_form
from semantic_trio.adapters.catalogue.sampling import sampling_defaults
from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.heap import trim_heap
from semantic_trio.adapters.http.serving.app_state import BatchWindow
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.metrics import Metrics, WatchedModel
from semantic_trio.adapters.mlx.budget import usual_cache_mb
from semantic_trio.adapters.mlx.chat_template import chat_program
from semantic_trio.adapters.mlx.device import Device, free_unused
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.mlx.runner import MlxRunner, load_runner, needed_weight_bytes
from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
from semantic_trio.adapters.scripted.runner import ScriptedRunner
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.application.adapters import Adapters, AdapterShelf
from semantic_trio.application.engine import Engine
from semantic_trio.application.model_entry import ModelClose
from semantic_trio.application.neighbours import Neighbours
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import EngineDeadError, ModelNotFoundError
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.domain.observation import ModelLoaded
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.entrypoints.ending import PERSIST_SECONDS
from semantic_trio.entrypoints.model_tables import Tables
from semantic_trio.entrypoints.settings import Settings, settings_of
from semantic_trio.ports.observing import Observer

log = structlog.get_logger(__name__)

# Tokens read and drawn before the first request: MLX compiles its kernels, and the scheduler learns
# how fast this machine is.
WARM_UP_PROMPT, WARM_UP_TOKENS = 96, 4
MIB = 1 << 20

Runner = MlxRunner | ScriptedRunner


@attrs.define(eq=False)
class ModelHost:
    """Opens models on a device and closes them: the `ModelOpener` of a server."""

    settings: Settings
    device: Device
    directory: Callable[[str], Path]  # of a model on this machine; raises `ModelNotFoundError`
    metrics: Metrics
    window: BatchWindow
    has_disk: bool  # the memory of agents is kept on disk
    claim_disk: Callable[[], None]  # has the lock on the cache directory, or raises
    # the runner to use instead of that of the model of a fingerprint, where answers are scripted
    scripted: Callable[[TokenizerCodec, str], ScriptedRunner | None]
    observer: Observer
    # begins to end the process; returns the event that clients have their errors
    engine_died: Callable[[], trio.Event]
    entered: Callable[[str], None] = lambda phase: None  # called with each phase of opening a model
    shelf: AdapterShelf | None = None  # of adapters
    tables: Tables = attrs.field(factory=dict)  # settings of single models
    neighbours: Neighbours = attrs.field(factory=Neighbours)
    # fingerprint of each open model -> its name
    _open: dict[str, str] = attrs.field(init=False, factory=dict)

    async def needed_bytes(self, name: str) -> int:
        """See `ModelOpener.needed_bytes`."""
        path = await trio.to_thread.run_sync(self.directory, name)
        return (
            await needed_weight_bytes(self.device, path)
            + (self._settings_of(name).cache_budget_mb or usual_cache_mb()) * MIB
        )

    async def serve(
        self,
        name: str,
        closing: ModelClose,
        *,
        task_status: trio.TaskStatus[ServedModel] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """See `ModelOpener.serve`."""
        path = await trio.to_thread.run_sync(self.directory, name)
        try:
            await self._serve(name, path, closing, task_status)
        except Exception as error:
            faults = list(_faults(error))
            # else the device may never answer again
            if not any(isinstance(fault, EngineDeadError) for fault in faults):
                for fault in faults:
                    traceback.clear_frames(fault.__traceback__)  # they refer to what was loaded
                await self._release()
            raise
        await self._release()

    async def _release(self) -> None:
        """Free the memory of a model that nothing refers to any more, but for cycles of
        references.
        """
        # the thread holds its last call, and with it what the call was about, until the next one
        await self.device.call(free_unused)
        # Python holds the interpreter meanwhile, whichever thread collects, so streams pause. No
        # model is frozen (`Server._serve_models`), what was imported is: a few milliseconds.
        gc.collect()
        await self.device.call(free_unused)
        await trio.to_thread.run_sync(trim_heap)

    async def _serve(
        self, name: str, path: Path, closing: ModelClose, task_status: trio.TaskStatus[ServedModel]
    ) -> None:
        started, settings = trio.current_time(), self._settings_of(name)
        loaded_runner, loaded = await load_runner(
            self.device, path, settings.kv_bits, settings.block_tokens
        )
        codec = await trio.to_thread.run_sync(load_codec, path, tool_syntax, chat_program)
        await trio.to_thread.run_sync(trim_heap)  # reading takes several times what it returns
        load_seconds = trio.current_time() - started
        runner = self.scripted(codec, loaded.fingerprint) or loaded_runner
        engine = self._engine(
            settings, runner, _bounded_context(loaded, settings.context_length), codec.fingerprint
        )
        persistence = self._persistence(name, engine, runner)
        is_reported = trio.Event()
        with self._alone(name, runner.spec.fingerprint):
            async with trio.open_nursery() as nursery:
                await nursery.start(self._supervise, engine, is_reported)
                if self.has_disk:
                    self.entered("reading the list of what is on disk")
                    await persistence.open()
                    await nursery.start(persistence.run)
                self.entered("warming up")
                await _warm_up(engine, codec)
                self.observer.observe(ModelLoaded(model=name, seconds=load_seconds))
                with (
                    self._measured(WatchedModel(engine, persistence, codec.tally.counts)),
                    self.neighbours.joined(engine),
                ):
                    is_reported.set()
                    adapters = (
                        Adapters(name, self.shelf, loaded_runner)
                        if self.shelf is not None
                        else None
                    )
                    task_status.started(
                        ServedModel(
                            _card(name, path, engine, loaded),
                            engine,
                            codec,
                            persistence,
                            adapters=adapters,
                        )
                    )
                    await closing.wait()
                    await self._flush(engine, persistence, closing)
                nursery.cancel_scope.cancel()

    @contextlib.contextmanager
    def _alone(self, name: str, fingerprint: str) -> Iterator[None]:
        """Have no other open model write to the same place on disk. Raises `ModelNotFoundError`."""
        if (other := self._open.get(fingerprint)) is not None:
            raise ModelNotFoundError(
                name,
                (
                    f"it is the model that is open as {other}: name that one, or make {name} an "
                    "alias of it"
                ),
            )
        self._open[fingerprint] = name
        try:
            yield
        finally:
            del self._open[fingerprint]

    @contextlib.contextmanager
    def _measured(self, model: WatchedModel) -> Iterator[None]:
        self.metrics.watch(model)
        try:
            yield
        finally:
            self.metrics.unwatch(model)

    async def _flush(self, engine: Engine, persistence: Persistence, closing: ModelClose) -> None:
        """Have everything that is remembered written to disk in the time that is left."""
        if not self.has_disk:
            return
        with trio.move_on_after(_seconds_left(closing)):
            await engine.settle()
        waiting = await persistence.flush(_seconds_left(closing))
        log.info(
            "memory is on disk" if not waiting else "memory is on disk in part",
            bytes=engine.memory.disk.used,
            not_written=waiting,
        )

    async def _supervise(
        self, engine: Engine, is_reported: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Run the engine.

        When that of a model in use dies, streams get their error events before the process ends.
        """
        try:
            await engine.run(task_status=task_status)
        except EngineDeadError:
            if is_reported.is_set():
                await self.engine_died().wait()
            raise

    def _settings_of(self, name: str) -> Settings:
        return settings_of(self.settings, self.tables, name)

    def _engine(
        self, settings: Settings, runner: Runner, context_length: int, text_fingerprint: str
    ) -> Engine:
        limits = Limits(
            context_length=context_length,
            max_rows=settings.max_batch_size or runner.sizes.rows,
            chunk_tokens=settings.prefill_step_size or runner.sizes.prompt_tokens,
            max_stall_seconds=settings.max_decode_stall_ms / 1000,
            background_wait_seconds=settings.background_wait_seconds,
        )
        budget, most_agents = (
            (settings.cache_budget_mb or usual_cache_mb()) * MIB,
            settings.max_agents_in_memory,
        )
        disk = Disk(settings.disk_budget_mb * MIB if self.has_disk else 0)
        memory = Memory(
            runner.spec, budget, limits.chunk_tokens, most_agents, disk, text_fingerprint
        )
        return Engine(
            runner,
            Scheduler(
                limits, memory, Speculation(settings.num_draft_tokens, runner.sizes.decode_tokens)
            ),
            queue_limit=settings.queue_limit,
            step_deadline_seconds=settings.step_deadline_seconds,
            batch_window_seconds=self.window.seconds,
            observer=self.observer,
        )

    def _persistence(self, name: str, engine: Engine, runner: Runner) -> Persistence:
        settings = self.settings
        return Persistence(
            engine.memory,
            runner,
            ModelFiles(settings.cache_dir, runner.spec.fingerprint, name, self.claim_disk),
            engine.nudge,
            engine.scheduler.prefill_pace.seconds,
            floor_bytes=settings.disk_floor_mb * MIB,
            import_trust=settings.import_trust,
            allowance=Allowance(settings.disk_writes_mb_per_day * MIB),
            observer=self.observer,
        )


def _faults(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, and all that it is a group of."""
    yield error
    if isinstance(error, BaseExceptionGroup):
        for one in error.exceptions:
            yield from _faults(one)


def _bounded_context(loaded: LoadedModel, limit: int) -> int:
    """Tokens of a conversation: those the model was made for, and no more than the limit, unless
    that is 0.
    """
    return min(loaded.context_length, limit or loaded.context_length)


def _seconds_left(closing: ModelClose) -> float:
    """Seconds that are left to write, and never fewer than memory gets in any case."""
    return max(closing.flush_until - trio.current_time(), PERSIST_SECONDS)


def _card(name: str, path: Path, engine: Engine, loaded: LoadedModel) -> ModelCard:
    return ModelCard(
        id=name,
        display_name=name,
        context_length=engine.scheduler.limits.context_length,
        created_at=int(path.stat().st_mtime),
        vocabulary=loaded.vocab_size,
        weight_bytes=loaded.weight_bytes,
        embeds=embedding_form(path),
        sampling=sampling_defaults(path),
    )


async def _warm_up(engine: Engine, codec: TokenizerCodec) -> None:
    """Run one generation before the first request.

    It is not remembered: a start must not depend on how many agents there are.
    """
    started = time.monotonic()
    sentence = codec.encode_text("The quick brown fox jumps over the lazy dog. ")
    prompt = tuple(
        sentence[i % len(sentence)]
        for i in range(min(WARM_UP_PROMPT, engine.scheduler.limits.context_length // 2))
    )
    request = GenerationRequest(
        "warm-up", prompt, WARM_UP_TOKENS, seed=secrets.randbits(63), is_remembered=False
    )
    await engine.submit(request, codec.decoder()).result()
    log.info("warmed up", seconds=round(time.monotonic() - started, 2))
