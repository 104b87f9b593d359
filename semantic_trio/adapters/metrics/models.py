"""Figures of the models: their engines and memories, those of all open models together.

Reads what is counted elsewhere when scraped. What closed models have counted stays counted.
"""

import collections
import math
import time
from collections.abc import Callable, Iterator, Mapping

import attrs
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from semantic_trio.application.engine import Engine
from semantic_trio.application.model_entry import Lookups
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.memory import Memory

# Rows of a forward pass, up to the largest `max_batch_size`.
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# A rate over less time would be noise.
SHORTEST_RATE_SECONDS = 1.0

# Counters by name, each with its description and its labels.
COUNTERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "semantic_tokens_generated": ("Tokens drawn.", ()),
    "semantic_tool_calls": (
        "Texts that began as calls, by format and outcome.",
        ("format", "outcome"),
    ),
    "semantic_eviction": ("Blocks given up for others.", ("tier",)),
    "semantic_preemption": (
        "Rows taken away, for want of memory or for interactive requests.",
        ("reason",),
    ),
    "semantic_draft_tokens": ("Tokens drafted from what a request has read.", ()),
    "semantic_accepted_draft_tokens": ("Drafted tokens that were accepted.", ()),
    "semantic_memory_discrepancy": ("Differences found between books and device.", ()),
    "semantic_disk_written_bytes": ("Bytes written.", ()),
    "semantic_disk_read_bytes": ("Bytes of blocks and snapshots brought back.", ()),
    "semantic_disk_damaged": ("Files found damaged or gone.", ()),
    "semantic_disk_slower_than_compute": (
        "Times that reading took longer than computing would have.",
        (),
    ),
    "semantic_disk_eviction": ("Blocks and snapshots deleted for others.", ()),
    "semantic_model_hit": ("Requests whose model was loaded.", ()),
    "semantic_model_miss": ("Requests that waited for their model to be loaded.", ()),
}
PASSES = "semantic_batch_size"

# A counter's name and the values of its labels, with its count.
Counts = collections.Counter[tuple[str, ...]]


@attrs.frozen(eq=False)
class WatchedModel:
    """An open model, as far as it is measured."""

    engine: Engine
    persistence: Persistence
    # texts that began as calls, by format and outcome
    calls: Mapping[tuple[str, str], int] = attrs.field(factory=dict)

    @property
    def counts(self) -> Counts:
        """All counts of this model."""
        engine, traffic = self.engine, self.persistence.traffic
        counts: Counts = collections.Counter(
            {
                ("semantic_tokens_generated",): engine.tokens_generated,
                ("semantic_eviction", "ram"): engine.memory.store.evictions,
                ("semantic_preemption", "memory"): engine.scheduler.preemptions
                - engine.scheduler.priority_preemptions,
                ("semantic_preemption", "priority"): engine.scheduler.priority_preemptions,
                ("semantic_draft_tokens",): engine.scheduler.speculation.drafted,
                ("semantic_accepted_draft_tokens",): engine.scheduler.speculation.accepted,
                ("semantic_memory_discrepancy",): engine.discrepancies,
                ("semantic_disk_written_bytes",): traffic.written_bytes,
                ("semantic_disk_read_bytes",): traffic.read_bytes,
                ("semantic_disk_damaged",): traffic.damaged,
                ("semantic_disk_slower_than_compute",): traffic.slower,
                ("semantic_disk_eviction",): traffic.evicted,
            }
        )
        counts.update(
            {("semantic_tool_calls", *labels): count for labels, count in self.calls.items()}
        )
        counts.update({(PASSES, str(rows)): count for rows, count in engine.passes.items()})
        return counts


@attrs.define(eq=False)
class ModelsCollector(Collector):
    """Reads all open models when scraped."""

    memory: Callable[[], Mapping[str, float]]  # bytes in use on the device by kind
    lookups: Lookups
    _watched: list[WatchedModel] = attrs.field(init=False, factory=list)
    # what models have counted that are closed
    _closed: Counts = attrs.field(init=False, factory=collections.Counter)
    _rate: "_Rate" = attrs.field(init=False, factory=lambda: _Rate())

    @property
    def watched(self) -> tuple[WatchedModel, ...]:
        """All open models."""
        return tuple(self._watched)

    def add(self, model: WatchedModel) -> None:
        """Read a model that was opened."""
        self._watched.append(model)

    def remove(self, model: WatchedModel) -> None:
        """Add up what a model has counted that is being closed, and refer to it no more."""
        self._watched.remove(model)
        self._closed.update(model.counts)

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        counts = self._closed.copy()
        for model in self._watched:
            counts.update(model.counts)
        counts["semantic_model_hit",] = self.lookups.hits
        counts["semantic_model_miss",] = self.lookups.misses
        yield from _counters(counts)
        yield _batch_sizes(
            {
                int(rows): count
                for (name, *labels), count in counts.items()
                if name == PASSES
                for rows in labels
            }
        )
        rate = self._rate.at(counts["semantic_tokens_generated",])
        yield GaugeMetricFamily(
            "semantic_tokens_per_second", "Tokens drawn per second since the scrape before.", rate
        )
        yield GaugeMetricFamily(
            "semantic_models_resident", "Models that are loaded.", len(self._watched)
        )
        yield from self._engines()
        yield from self._memories()

    def _engines(self) -> Iterator[Metric]:
        engines = [model.engine for model in self._watched]
        yield GaugeMetricFamily(
            "semantic_request_queue_depth",
            "Requests without a row.",
            sum(engine.waiting for engine in engines),
        )
        yield GaugeMetricFamily(
            "semantic_rows",
            "Requests with a row.",
            sum(engine.scheduler.running for engine in engines),
        )
        background = GaugeMetricFamily(
            "semantic_background_requests",
            "Background requests, with a row and without one.",
            labels=("state",),
        )
        waiting, all_open = (
            sum(engine.waiting_in_background for engine in engines),
            sum(engine.open_in_background for engine in engines),
        )
        background.add_metric(("running",), all_open - waiting)
        background.add_metric(("waiting",), waiting)
        yield background
        layout = GaugeMetricFamily(
            "semantic_layout_info", "How rows go through the models together.", labels=("layout",)
        )
        for name in sorted({engine.runner.layout for engine in engines}):
            layout.add_metric((name,), 1)
        yield layout

    def _memories(self) -> Iterator[Metric]:
        memories = [model.engine.memory for model in self._watched]
        pools = [memory.store.pool for memory in memories]
        used, total = sum(pool.used for pool in pools), sum(pool.total_bytes for pool in pools)
        yield _memory_used({**self.memory(), **_held(memories)})
        yield GaugeMetricFamily(
            "semantic_pool_utilization_ratio",
            "The part of the cache budget that is used.",
            used / total if total else 0.0,
        )
        yield GaugeMetricFamily(
            "semantic_agents",
            "Agents that are remembered.",
            sum(len(memory.agents) for memory in memories),
        )
        histories = [memory.token_histories for memory in memories]
        yield GaugeMetricFamily(
            "semantic_token_histories",
            "Conversations whose exact tokens are known.",
            sum(map(len, histories)),
        )
        active = sum(bool(agent.rows) for memory in memories for agent in memory.agents)
        yield GaugeMetricFamily("semantic_agents_active", "Agents in the middle of a turn.", active)


def _held(memories: list[Memory]) -> dict[str, float]:
    """Bytes of the cache budgets by what holds them, and of the token histories."""
    rows, snapshots = (
        sum(memory.rows.held_bytes for memory in memories),
        sum(memory.snapshots.used for memory in memories),
    )
    used = sum(memory.store.pool.used for memory in memories)
    histories = sum(memory.token_histories.held_bytes for memory in memories)
    return {
        "cache_rows": rows,
        "cache_blocks": used - rows - snapshots,
        "cache_marks": snapshots,
        "token_histories": histories,
    }


def _memory_used(kinds: Mapping[str, float]) -> Metric:
    used = GaugeMetricFamily("semantic_memory_used_bytes", "Memory in use.", labels=("kind",))
    for kind, size in kinds.items():
        used.add_metric((kind,), size)
    return used


def _counters(counts: Counts) -> Iterator[Metric]:
    for name, (text, labels) in COUNTERS.items():
        family = CounterMetricFamily(name, text, labels=labels)
        if not labels:
            family.add_metric((), counts[name,])
        for (counted, *values), count in counts.items() if labels else ():
            if counted == name:
                family.add_metric(values, count)
        yield family


def _batch_sizes(passes: Mapping[int, int]) -> HistogramMetricFamily:
    """Return the histogram of the rows of forward passes, from the number of passes by their
    rows.
    """
    bounds = [*((str(bound), float(bound)) for bound in ROWS), ("+Inf", math.inf)]
    buckets = [
        (name, float(sum(count for rows, count in passes.items() if rows <= bound)))
        for name, bound in bounds
    ]
    total = float(sum(rows * count for rows, count in passes.items()))
    return HistogramMetricFamily(PASSES, "Rows of a forward pass.", buckets, total)


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
