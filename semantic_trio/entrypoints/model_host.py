"""One served model, from its files to free memory again: load, read the disk, warm up, serve; then settle, flush and release.

Knows how the parts of a model fit. Knows nothing of HTTP, and nothing of other models.
"""

import gc
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
import structlog
import trio

from semantic_trio.adapters.catalogue.pooling import embedding_form
from semantic_trio.adapters.catalogue.sampling import sampling_defaults
from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.http.serving.served_model import ModelCard, ServedModel
from semantic_trio.adapters.mlx.budget import usual_cache_mb
from semantic_trio.adapters.mlx.chat_template import chat_program
from semantic_trio.adapters.mlx.device import Device, free_unused
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.mlx.runner import MlxRunner, load_runner
from semantic_trio.adapters.mlx.tool_syntax import tool_syntax
from semantic_trio.adapters.text.codec import TokenizerCodec, load_codec
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.disk import Disk
from semantic_trio.domain.errors import EngineDeadError
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.speculation import Speculation
from semantic_trio.entrypoints.ending import PERSIST_SECONDS
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.ports import Observer
from semantic_trio.testing import ScriptedRunner

log = structlog.get_logger(__name__)

# Tokens read and drawn before the first request: MLX compiles its kernels, and the scheduler learns how fast this machine is.
WARM_UP_PROMPT, WARM_UP_TOKENS = 96, 4
MIB = 1 << 20

Runner = MlxRunner | ScriptedRunner


@attrs.define(eq=False)
class Closing:
    """The order to close a model, given once."""

    flush_until: float = attrs.field(init=False, default=0.0)  # on trio's clock: what the model remembers is written to disk by then
    _begun: trio.Event = attrs.field(init=False, factory=trio.Event)

    def begin(self, flush_until: float) -> None:
        """Close the model; its memory may be written to disk until then, and for a few seconds in any case."""
        self.flush_until = flush_until
        self._begun.set()

    async def wait(self) -> None:
        """Return when the model is to be closed."""
        await self._begun.wait()

    @property
    def seconds_left(self) -> float:
        """Seconds that are left to write, and never fewer than memory gets in any case."""
        return max(self.flush_until - trio.current_time(), PERSIST_SECONDS)


@attrs.frozen(eq=False)
class OpenModel:
    """A model that answers requests, and what is measured of it."""

    served: ServedModel
    memory: Callable[[], Mapping[str, float]]  # bytes in use on the device, by kind
    calls: Mapping[tuple[str, str], int]  # texts that began as calls, by format and outcome
    load_seconds: float


@attrs.frozen(eq=False)
class ModelHost:
    """Opens models on a device and closes them."""

    settings: Settings
    device: Device
    has_disk: bool  # the memory of agents is kept on disk
    claim_disk: Callable[[], None]  # has the lock on the cache directory, or raises
    scripted: Callable[[TokenizerCodec], ScriptedRunner | None]  # the runner to use instead of the model's, where answers are scripted
    observer: Observer
    engine_died: Callable[[], "trio.Event"]  # begins to end the process; returns the event that clients have their errors
    entered: Callable[[str], None] = lambda phase: None  # called with each phase of opening a model

    async def serve(self, name: str, path: Path, closing: Closing, *, task_status: trio.TaskStatus[OpenModel] = trio.TASK_STATUS_IGNORED) -> None:
        """Open the model of a directory, report it, and serve it until `closing`; then its memory is on disk and free.

        The requests of the model have to be over before it is closed. Raises `ModelNotFoundError` or `InvalidRequestError` before it has reported
        the model, `EngineDeadError` after that.
        """
        await self._serve(name, path, closing, task_status)
        await self._release()

    async def _release(self) -> None:
        """Free the memory of a model that nothing refers to any more, but for cycles of references."""
        gc.unfreeze()  # a model that was there at the start is among what is never looked at
        gc.collect()
        gc.freeze()
        await self.device.call(free_unused)

    async def _serve(self, name: str, path: Path, closing: Closing, task_status: trio.TaskStatus[OpenModel]) -> None:
        started = trio.current_time()
        loaded_runner, loaded = await load_runner(self.device, path, self.settings.kv_bits)
        codec = await trio.to_thread.run_sync(load_codec, path, tool_syntax, chat_program)
        load_seconds = trio.current_time() - started
        runner = self.scripted(codec) or loaded_runner
        engine = self._engine(runner, _bounded_context(loaded, self.settings.context_length), codec.fingerprint)
        persistence = self._persistence(name, engine, runner)
        async with trio.open_nursery() as nursery:
            await nursery.start(self._supervise, engine)
            if self.has_disk:
                self.entered("reading the list of what is on disk")
                await persistence.open()
                await nursery.start(persistence.run)
            self.entered("warming up")
            await _warm_up(engine, codec)
            card = _card(name, path, engine.scheduler.limits.context_length, loaded.vocab_size)
            task_status.started(OpenModel(ServedModel(card, engine, codec, persistence), runner.memory, codec.tally.counts, load_seconds))
            await closing.wait()
            await self._flush(engine, persistence, closing)
            nursery.cancel_scope.cancel()

    async def _flush(self, engine: Engine, persistence: Persistence, closing: Closing) -> None:
        """Have everything that is remembered written to disk in the time that is left."""
        if not self.has_disk:
            return
        with trio.move_on_after(closing.seconds_left):
            await engine.settle()
        waiting = await persistence.flush(closing.seconds_left)
        log.info("memory is on disk" if not waiting else "memory is on disk in part", bytes=engine.memory.disk.used, not_written=waiting)

    async def _supervise(self, engine: Engine, *, task_status: trio.TaskStatus[None]) -> None:
        """Run the engine. When it dies, streams get their error events before the process ends."""
        try:
            await engine.run(task_status=task_status)
        except EngineDeadError:
            await self.engine_died().wait()
            raise

    def _engine(self, runner: Runner, context_length: int, text_fingerprint: str) -> Engine:
        settings = self.settings
        limits = Limits(
            context_length=context_length,
            max_rows=settings.max_batch_size or runner.sizes.rows,
            chunk_tokens=settings.prefill_step_size or runner.sizes.prompt_tokens,
            max_stall_seconds=settings.max_decode_stall_ms / 1000,
        )
        budget, most_agents = (settings.cache_budget_mb or usual_cache_mb()) * MIB, settings.max_agents_in_memory
        disk = Disk(settings.disk_budget_mb * MIB if self.has_disk else 0)
        memory = Memory(runner.spec, budget, limits.chunk_tokens, most_agents, disk, text_fingerprint)
        return Engine(
            runner,
            Scheduler(limits, memory, Speculation(settings.num_draft_tokens, runner.sizes.decode_tokens)),
            queue_limit=settings.queue_limit,
            step_deadline_seconds=settings.step_deadline_seconds,
            batch_window_seconds=settings.batch_window_ms / 1000,
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


def _bounded_context(loaded: LoadedModel, limit: int) -> int:
    """Tokens of a conversation: those the model was made for, and no more than the limit, unless that is 0."""
    return min(loaded.context_length, limit or loaded.context_length)


def _card(name: str, path: Path, context_length: int, vocabulary: int) -> ModelCard:
    created_at, embeds, sampling = int(path.stat().st_mtime), embedding_form(path), sampling_defaults(path)
    return ModelCard(name, name, context_length, created_at, vocabulary=vocabulary, embeds=embeds, sampling=sampling)


async def _warm_up(engine: Engine, codec: TokenizerCodec) -> None:
    """Run one generation before the first request. It is not remembered: a start must not depend on how many agents there are."""
    started = time.monotonic()
    sentence = codec.encode_text("The quick brown fox jumps over the lazy dog. ")
    prompt = tuple(sentence[i % len(sentence)] for i in range(min(WARM_UP_PROMPT, engine.scheduler.limits.context_length // 2)))
    request = GenerationRequest("warm-up", prompt, WARM_UP_TOKENS, seed=secrets.randbits(63), is_remembered=False)
    await engine.submit(request, codec.decoder()).result()
    log.info("warmed up", seconds=round(time.monotonic() - started, 2))
