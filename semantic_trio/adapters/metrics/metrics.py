"""Metrics for Prometheus, under the names of the manual.

Counts requests, generations and loads as they are reported, and reads the engine when scraped. Agents are never labels: the number of series does
not grow with the number of agents.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import attrs
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from semantic_trio.adapters.metrics.disk import DiskCollector
from semantic_trio.adapters.metrics.sinks import SinkCollector
from semantic_trio.application.delivery import Delivery
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.observation import GenerationEnded, ModelLoaded, Observation, RequestEnded, Written
from semantic_trio.domain.reuse import Source

# From one token of a small model to the longest prefill a client waits for.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
# Rows of a forward pass, up to the largest `max_batch_size`.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A rate over less time would be noise.
SHORTEST_RATE_SECONDS = 1.0


@attrs.frozen
class Build:
    """The code that a server runs."""

    version: str = ""
    commit: str = ""  # of the checkout; empty where the package is installed


@attrs.define(eq=False)
class Metrics:
    """All metrics of one server; an observer."""

    engine: Engine
    memory: Callable[[], Mapping[str, float]] = dict  # bytes in use by kind, when asked
    persistence: Persistence | None = None  # where there is a disk tier
    calls: Mapping[tuple[str, str], int] = attrs.field(factory=dict)  # texts that began as calls, by format and outcome
    build: Build = Build()
    sinks: Sequence[Delivery] = ()
    registry: CollectorRegistry = attrs.field(init=False, factory=CollectorRegistry)
    _requests: Counter = attrs.field(init=False)
    _durations: Histogram = attrs.field(init=False)
    _first_token: Histogram = attrs.field(init=False)
    _inter_token: Histogram = attrs.field(init=False)
    _hits: Counter = attrs.field(init=False)
    _misses: Counter = attrs.field(init=False)
    _loads: Histogram = attrs.field(init=False)
    _records: Histogram = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        registry = self.registry
        labels = ("model", "protocol", "status")
        self._requests = Counter("semantic_request_total", "Requests, by how they ended.", labels, registry=registry)
        self._durations = _histogram("semantic_request_duration_seconds", "From the request to the end of its answer.", (), registry)
        self._first_token = _histogram("semantic_time_to_first_token_seconds", "From submission to the first token.", ("cache",), registry)
        self._inter_token = _histogram("semantic_inter_token_seconds", "Between two tokens of an answer.", (), registry)
        self._hits = Counter("semantic_cache_hit_total", "Generations that began with remembered tokens.", registry=registry)
        self._misses = Counter("semantic_cache_miss_total", "Generations that could not use all that might be known.", ("cause",), registry=registry)
        self._loads = _histogram("semantic_model_load_seconds", "Time to load a model.", (), registry)
        self._records = _histogram("semantic_cache_persist_duration_seconds", "From a turn's end to its being on disk.", (), registry)
        build = Gauge("semantic_build_info", "Version and commit of the server.", ("version", "commit"), registry=registry)
        build.labels(self.build.version, self.build.commit).set(1)
        registry.register(_EngineCollector(self.engine, self.memory, self.calls))
        if self.persistence is not None:
            registry.register(DiskCollector(self.persistence, self.engine.scheduler.prefill_pace))
        registry.register(SinkCollector(self.sinks))

    @property
    def content_type(self) -> str:
        """Of the exposition."""
        return CONTENT_TYPE_LATEST

    def exposition(self) -> bytes:
        """All figures, as scrapers read them."""
        return generate_latest(self.registry)

    def observe(self, observation: Observation) -> None:
        """See `Observer`."""
        match observation:
            case RequestEnded():
                self._requests.labels(observation.model, observation.protocol, observation.status).inc()
                self._durations.observe(observation.seconds)
            case GenerationEnded():
                self._generation_ended(observation)
            case ModelLoaded():
                self._loads.observe(observation.seconds)
            case Written(agent=str()):
                self._records.observe(observation.seconds)
            case _:
                pass  # counted where it happens, and read when scraped

    def _generation_ended(self, generation: GenerationEnded) -> None:
        """Count a generation by its stamps."""
        reuse, stamps = generation.reuse, generation.stamps
        if reuse.tokens:
            self._hits.inc()
        if reuse.cause is not None:
            self._misses.labels(reuse.cause.value).inc()
        if not stamps:
            return
        self._first_token.labels("disk" if reuse.source is Source.DISK else "ram" if reuse.tokens else "cold").observe(
            stamps[0] - generation.submitted_at
        )
        for earlier, later in itertools.pairwise(stamps):
            self._inter_token.observe(later - earlier)


def _histogram(name: str, text: str, labels: tuple[str, ...], registry: CollectorRegistry) -> Histogram:
    return Histogram(name, text, labels, buckets=SECONDS, registry=registry)


@attrs.define(eq=False)
class _EngineCollector(Collector):
    """Reads the engine when scraped."""

    engine: Engine
    memory: Callable[[], Mapping[str, float]]
    calls: Mapping[tuple[str, str], int]
    _rate: "_Rate" = attrs.field(init=False, factory=lambda: _Rate())

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        engine = self.engine
        tokens = engine.tokens_generated
        yield GaugeMetricFamily("semantic_request_queue_depth", "Requests without a row.", engine.waiting)
        yield GaugeMetricFamily("semantic_rows", "Requests with a row.", engine.scheduler.running)
        yield _batch_sizes(engine.passes)
        yield CounterMetricFamily("semantic_tokens_generated", "Tokens drawn.", tokens)
        yield GaugeMetricFamily("semantic_tokens_per_second", "Tokens drawn per second since the scrape before.", self._rate.at(tokens))
        used = GaugeMetricFamily("semantic_memory_used_bytes", "Memory in use.", labels=("kind",))
        for kind, size in {**self.memory(), **_held(engine.memory), "token_histories": engine.memory.token_histories.held_bytes}.items():
            used.add_metric((kind,), size)
        yield used
        read = CounterMetricFamily("semantic_tool_calls", "Texts that began as calls, by format and outcome.", labels=("format", "outcome"))
        for labels, count in self.calls.items():
            read.add_metric(labels, count)
        yield read
        layout = GaugeMetricFamily("semantic_layout_info", "How rows go through the model together.", labels=("layout",))
        layout.add_metric((engine.runner.layout,), 1)
        yield layout
        yield from self._remembered()

    def _remembered(self) -> Iterator[Metric]:
        engine, store = self.engine, self.engine.memory.store
        active = sum(bool(agent.rows) for agent in engine.memory.agents)
        evictions = CounterMetricFamily("semantic_eviction", "Blocks given up for others.", labels=("tier",))
        evictions.add_metric(("ram",), store.evictions)
        yield GaugeMetricFamily("semantic_pool_utilization_ratio", "The part of the cache budget that is used.", store.pool.pressure)
        yield evictions
        yield GaugeMetricFamily("semantic_agents", "Agents that are remembered.", len(engine.memory.agents))
        yield GaugeMetricFamily("semantic_token_histories", "Conversations whose exact tokens are known.", len(engine.memory.token_histories))
        yield GaugeMetricFamily("semantic_agents_active", "Agents in the middle of a turn.", active)
        yield CounterMetricFamily("semantic_preemption", "Rows given up for elder ones.", engine.scheduler.preemptions)
        speculation = engine.scheduler.speculation
        yield CounterMetricFamily("semantic_draft_tokens", "Tokens drafted from what a request has read.", speculation.drafted)
        yield CounterMetricFamily("semantic_accepted_draft_tokens", "Drafted tokens that were accepted.", speculation.accepted)
        yield CounterMetricFamily("semantic_memory_discrepancy", "Differences found between books and device.", engine.discrepancies)


def _batch_sizes(passes: Mapping[int, int]) -> HistogramMetricFamily:
    """Return the histogram of the rows of forward passes, from the number of passes by their rows."""
    bounds = [*((str(bound), float(bound)) for bound in ROWS), ("+Inf", math.inf)]
    buckets = [(name, float(sum(count for rows, count in passes.items() if rows <= bound))) for name, bound in bounds]
    total = float(sum(rows * count for rows, count in passes.items()))
    return HistogramMetricFamily("semantic_batch_size", "Rows of a forward pass.", buckets, total)


def _held(memory: Memory) -> dict[str, float]:
    """Bytes of the cache budget by what holds them."""
    rows, snapshots = memory.rows.held_bytes, memory.snapshots.used
    return {"cache_rows": rows, "cache_blocks": memory.store.pool.used - rows - snapshots, "cache_marks": snapshots}


@attrs.define
class _Rate:
    """Growth of a counter, per second."""

    _since: float = attrs.field(factory=time.monotonic)
    _count: int = 0
    _last: float = 0.0

    def at(self, count: int) -> float:
        """Per second, since the last call at least a second ago."""
        now = time.monotonic()
        if now - self._since >= SHORTEST_RATE_SECONDS:
            self._last = (count - self._count) / (now - self._since)
            self._since, self._count = now, count
        return self._last
