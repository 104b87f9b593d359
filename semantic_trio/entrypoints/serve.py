"""The tree of tasks of one server process, built by hand; and how it is taken down again.

    device       one lifelong thread for MLX
    models       of each that is open its step loop and its disk tier (`model_host`)
    running      responses that are made in the background
    http         connections and their handlers
    signals      the first starts a drain, a later one ends the process at once

What is used outlives its users: http closes before the engine, the engine before what it remembers
is on disk, then the device, and the database of responses last. Only http begins early: clients and
supervisors are told that the model is being loaded.
"""

import gc
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
import structlog
import trio

import semantic_trio
from semantic_trio.adapters.catalogue.adapter_files import adapters_in, digest_of
from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.disk import CacheLock
from semantic_trio.adapters.http.app import create_app
from semantic_trio.adapters.http.middleware.starting import StartingApp
from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.adapters.http.openai.responses.state import ResponsesState
from semantic_trio.adapters.http.serving.app_state import AppState, BatchWindow, HttpSettings
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.sockets.server import serve_http
from semantic_trio.adapters.metrics import Build, Metrics
from semantic_trio.adapters.mlx.device import Device, blas_cure, last_act, memory_in_use
from semantic_trio.adapters.scripted.rules import Rule
from semantic_trio.adapters.scripted.runner import ScriptedRunner, scripted_spec
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.application.adapters import AdapterShelf
from semantic_trio.application.model_entry import ModelLimits
from semantic_trio.application.models import ModelRegistry
from semantic_trio.application.observers import Observers
from semantic_trio.domain.authority import authority
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.entrypoints.address import check_address
from semantic_trio.entrypoints.clock import RunningClock
from semantic_trio.entrypoints.commit import commit
from semantic_trio.entrypoints.ending import FLUSH_SECONDS, STORE_SECONDS
from semantic_trio.entrypoints.locking import cache_locked, holder
from semantic_trio.entrypoints.logging import adopt
from semantic_trio.entrypoints.model_host import MIB, ModelHost
from semantic_trio.entrypoints.model_tables import Tables
from semantic_trio.entrypoints.observing import Sinks, sinks_of
from semantic_trio.entrypoints.settings import Settings, aliases_of, settings_of
from semantic_trio.entrypoints.signals import watch_signals
from semantic_trio.entrypoints.storing import responses_stored

log = structlog.get_logger(__name__)

# How long a worker thread that makes a prompt may keep the interpreter from the event loop;
# Python's own 5 ms are seen in streams.
SWITCH_SECONDS = 0.001


@attrs.define(eq=False)
class Server:
    """A server process: its settings and the events that end it."""

    settings: Settings
    model_path: Path
    announce: Callable[[str], None]  # called with the URL when clients can connect
    script: tuple[Rule, ...] | None = None  # answers to give instead of the model's
    tables: Tables = attrs.field(factory=dict)  # settings of single models
    _stop: trio.Event = attrs.field(init=False, factory=trio.Event)
    _lock: CacheLock | None = attrs.field(init=False, default=None)
    _observers: Observers = attrs.field(init=False, factory=Observers)
    _sinks: Sinks = attrs.field(init=False)
    _app: StartingApp = attrs.field(init=False, factory=StartingApp)
    _port: int = attrs.field(init=False, default=0)
    _http_ends: trio.Event = attrs.field(init=False, factory=trio.Event)
    _http_closed: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        self._sinks = sinks_of(self.settings)

    async def run(self) -> None:
        """Serve until a signal or an operator ends it, or until the engine dies."""
        await check_address(self.settings.host, self.settings.port)
        with cache_locked(self.settings) as self._lock:
            async with (
                responses_stored(self.settings, self._claim) as records,
                self._sinks.delivering(),
            ):
                await self._run(records)

    def _claim(self) -> None:
        """Have the lock on the cache directory, if this process is the one that has it.

        Raises as `CacheLock.claim` does.
        """
        if self._lock is not None:
            self._lock.claim()

    async def _run(self, records: ResponseStoreClient) -> None:
        device = Device(last_act)
        async with trio.open_nursery() as device_nursery:
            await device_nursery.start(device.run)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(
                    watch_signals, self._stop.set, self.settings.shutdown_timeout_seconds
                )
                self._port = await nursery.start(self._serve_http)
                self._enter("loading the model")
                log.info(
                    "listening, and loading the model", host=self.settings.host, port=self._port
                )
                await warn_of_slow_device(device)
                await self._serve_models(device, records)
                nursery.cancel_scope.cancel()
            device.stop()

    async def _serve_models(self, device: Device, records: ResponseStoreClient) -> None:
        """Load the main model, serve it and those that requests name until told to stop, and have
        them closed.
        """
        settings = self.settings
        metrics = Metrics(
            memory_in_use,
            Build(semantic_trio.__version__, await trio.to_thread.run_sync(commit)),
            self._sinks.deliveries,
        )
        self._observers.add(metrics)
        self._sinks.join(self._observers, metrics)
        host = self._host(device, metrics)
        names = ModelNames(settings.model_id, settings.models, aliases_of(settings.aliases))
        registry: ModelRegistry[ServedModel] = ModelRegistry(
            host, names, _limits(settings, self.tables), self._observers, metrics.lookups
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(registry.run)
            # What was imported stays: looking at all of it again, at an unload for example, stops
            # the event loop for 100 to 350 ms. Models do not stay, so they come after it.
            gc.freeze()
            if await self._has_loaded(registry):
                stopped_at = await self._serve_clients(
                    self._state(registry, metrics, host.window), ResponsesState(records)
                )
                await registry.close(stopped_at + settings.shutdown_timeout_seconds)
            nursery.cancel_scope.cancel()

    async def _has_loaded(self, registry: ModelRegistry[ServedModel]) -> bool:
        """Load the main model.

        Returns False if the server is told to stop before the model is there. Loading is given up
        then: no client has been served, and nothing has to be written.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_at_stop, nursery.cancel_scope)
            await registry.load(self.settings.model_id)
            nursery.cancel_scope.cancel()
        return not self._stop.is_set()

    async def _cancel_at_stop(self, scope: trio.CancelScope) -> None:
        await self._stop.wait()
        scope.cancel()

    def _host(self, device: Device, metrics: Metrics) -> ModelHost:
        return ModelHost(
            self.settings,
            device,
            self._directory,
            metrics,
            BatchWindow(self.settings.batch_window_ms / 1000),
            has_disk=self._lock is not None,
            claim_disk=self._claim,
            scripted=self._scripted,
            observer=self._observers,
            engine_died=self._end_for_dead_engine,
            entered=self._enter,
            shelf=self._shelf,
            tables=self.tables,
        )

    def _directory(self, name: str) -> Path:
        """Return the directory of a model on this machine. Raises `ModelNotFoundError`."""
        return (
            self.model_path
            if name == self.settings.model_id
            else open_catalogue(self.settings.data_dir).path(name)
        )

    @property
    def _shelf(self) -> AdapterShelf | None:
        """The place of adapters, if there is one."""
        directory = self.settings.adapters_dir
        if directory is None:
            return None
        return AdapterShelf(
            lambda model: adapters_in(directory, model, self._directory_if_there(model)),
            digest_of,
            trio.to_thread.run_sync,
        )

    def _directory_if_there(self, name: str) -> Path | None:
        try:
            return self._directory(name)
        except ModelNotFoundError:
            return None

    def _enter(self, phase: str) -> None:
        """Show a phase of the start to clients and supervisors."""
        self._app.phase = phase

    def _end_for_dead_engine(self) -> trio.Event:
        """Begin to end the process.

        Returns the event that connections are closed: streams have their error events by then.
        """
        self._stop.set()
        return self._http_closed

    def _scripted(self, codec: TokenizerCodec, fingerprint: str) -> ScriptedRunner | None:
        if self.script is None:
            return None
        log.warning("answers are scripted: no model is asked", rules=len(self.script))
        return ScriptedRunner(
            script=self.script,
            encode=codec.encode_text,
            decode=codec.decode,
            spec=scripted_spec(fingerprint),
        )

    async def _serve_http(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Serve connections from before the model is loaded until the drain is over.

        Reports the port.
        """
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

    async def _serve_clients(self, state: AppState, responses: ResponsesState) -> float:
        """Serve the models until told to stop; return when that was."""
        async with trio.open_nursery() as nursery:
            await nursery.start(responses.active.run)
            self._app.app = create_app(state, responses)
            if self._lock is not None:
                self._lock.describe(holder(self.settings, self._port))
            self.announce(f"http://{authority(self.settings.host, self._port)}")
            await self._stop.wait()
            stopped_at = trio.current_time()
            await state.registry.drain(self.settings.shutdown_timeout_seconds)
            responses.active.stop()
            self._http_ends.set()
            # A database that hangs would hold responses in the background, and so the end.
            nursery.cancel_scope.deadline = (
                trio.current_time()
                + FLUSH_SECONDS
                + self.settings.write_timeout_seconds
                + STORE_SECONDS
            )
            await self._http_closed.wait()
        return stopped_at

    def _state(
        self, registry: ModelRegistry[ServedModel], metrics: Metrics, window: BatchWindow
    ) -> AppState:
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
            traces=bool(self.settings.otlp_endpoint),
            refuse_unreadable=self.settings.refuse_unreadable,
        )
        return AppState(
            registry=registry,
            metrics=metrics,
            observer=self._observers,
            version=semantic_trio.__version__,
            stop=self._stop.set,
            settings=http,
            window=window,
            shelf=self._shelf,
        )


async def warn_of_slow_device(device: Device) -> None:
    """Log one line with the cure if the device has no fast BLAS and needs one."""
    if cure := await device.call(blas_cure):
        log.warning(
            "OpenBLAS is missing: models run some sixty times slower on this CPU", cure=cure
        )


def _limits(settings: Settings, tables: Tables) -> ModelLimits:
    return ModelLimits(
        max_models=settings.max_models,
        budget_bytes=settings.models_budget_mb * MIB,
        idle_seconds=settings.model_idle_seconds,
        idle_seconds_of={
            model: settings_of(settings, tables, model).model_idle_seconds for model in tables
        },
        grace_seconds=settings.shutdown_timeout_seconds,
    )


def run(
    settings: Settings,
    model_path: Path,
    announce: Callable[[str], None],
    script: tuple[Rule, ...] | None,
    tables: Tables,
) -> None:
    """Serve until told to stop. Raises what ended it, in groups."""
    sys.setswitchinterval(SWITCH_SECONDS)
    adopt("transformers")
    trio.run(Server(settings, model_path, announce, script, tables).run, clock=RunningClock())
