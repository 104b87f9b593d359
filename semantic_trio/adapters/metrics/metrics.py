"""Metrics for Prometheus, under the names of the manual.

Counts requests, generations and loads as they are reported, and reads the open models when scraped.
Agents are never labels: the number of series does not grow with the number of agents.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Never

import attrs
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

from semantic_trio.adapters.metrics.disk import DiskCollector
from semantic_trio.adapters.metrics.models import ModelsCollector, WatchedModel
from semantic_trio.adapters.metrics.sinks import SinkCollector
from semantic_trio.application.delivery import Delivery
from semantic_trio.domain.observation import (
    GenerationEnded,
    ModelLoaded,
    ModelSwapped,
    ModelUnloaded,
    Observation,
    RequestEnded,
    Written,
)
from semantic_trio.domain.reuse import ReuseSource

# From one token of a small model to the longest prefill a client waits for.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@attrs.frozen
class Build:
    """The code that a server runs."""

    version: str = ""
    commit: str = ""  # of the checkout; empty where the package is installed


@attrs.define(eq=False)
class Metrics:
    """All metrics of one server; an observer."""

    memory: Callable[[], Mapping[str, float]] = dict  # bytes in use by kind, when asked
    build: Build = Build()
    sinks: Sequence[Delivery[Never]] = ()
    registry: CollectorRegistry = attrs.field(init=False, factory=CollectorRegistry)
    _requests: Counter = attrs.field(init=False)
    _durations: Histogram = attrs.field(init=False)
    _first_token: Histogram = attrs.field(init=False)
    _inter_token: Histogram = attrs.field(init=False)
    _hits: Counter = attrs.field(init=False)
    _misses: Counter = attrs.field(init=False)
    _loads: Histogram = attrs.field(init=False)
    _records: Histogram = attrs.field(init=False)
    _swaps: Histogram = attrs.field(init=False)
    _failed_swaps: Counter = attrs.field(init=False)
    _unloads: Counter = attrs.field(init=False)
    _models: ModelsCollector = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        registry = self.registry
        labels = ("model", "protocol", "status")
        self._requests = Counter(
            "semantic_request_total", "Requests, by how they ended.", labels, registry=registry
        )
        self._durations = _histogram(
            "semantic_request_duration_seconds",
            "From the request to the end of its answer.",
            (),
            registry,
        )
        self._first_token = _histogram(
            "semantic_time_to_first_token_seconds",
            "From submission to the first token.",
            ("cache", "priority"),
            registry,
        )
        self._inter_token = _histogram(
            "semantic_inter_token_seconds", "Between two tokens of an answer.", (), registry
        )
        self._hits = Counter(
            "semantic_cache_hit_total",
            "Generations that began with remembered tokens.",
            registry=registry,
        )
        self._misses = Counter(
            "semantic_cache_miss_total",
            "Generations that could not use all that might be known.",
            ("cause",),
            registry=registry,
        )
        self._loads = _histogram(
            "semantic_model_load_seconds", "Time to load a model.", (), registry
        )
        self._records = _histogram(
            "semantic_cache_persist_duration_seconds",
            "From a turn's end to its being on disk.",
            (),
            registry,
        )
        self._swaps = _histogram(
            "semantic_model_swap_duration_seconds",
            "Time to replace the main model by another one.",
            (),
            registry,
        )
        self._failed_swaps = Counter(
            "semantic_model_swap_failure_total",
            "Swaps whose new model could not be loaded.",
            registry=registry,
        )
        self._unloads = Counter(
            "semantic_model_eviction_total",
            "Models that were unloaded.",
            ("cause",),
            registry=registry,
        )
        build = Gauge(
            "semantic_build_info",
            "Version and commit of the server.",
            ("version", "commit"),
            registry=registry,
        )
        build.labels(self.build.version, self.build.commit).set(1)
        self._models = ModelsCollector(self.memory)
        registry.register(self._models)
        registry.register(DiskCollector(self._models))
        registry.register(SinkCollector(self.sinks))

    @property
    def content_type(self) -> str:
        """Content type of the exposition."""
        return CONTENT_TYPE_LATEST

    def exposition(self) -> bytes:
        """All figures, as scrapers read them."""
        return generate_latest(self.registry)

    def watch(self, model: WatchedModel) -> None:
        """Measure a model that was opened."""
        self._models.add(model)

    def unwatch(self, model: WatchedModel) -> None:
        """Measure a model no more; what it has counted stays counted."""
        self._models.remove(model)

    def observe(self, observation: Observation) -> None:
        """See `Observer`."""
        match observation:
            case RequestEnded():
                self._requests.labels(
                    observation.model, observation.protocol, observation.status
                ).inc()
                self._durations.observe(observation.seconds)
            case GenerationEnded():
                self._generation_ended(observation)
            case ModelLoaded():
                self._loads.observe(observation.seconds)
            case ModelUnloaded():
                self._unloads.labels(observation.cause).inc()
            case ModelSwapped(is_done=True):
                self._swaps.observe(observation.seconds)
            case ModelSwapped():
                self._failed_swaps.inc()
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
        cache = "disk" if reuse.source is ReuseSource.DISK else "ram" if reuse.tokens else "cold"
        self._first_token.labels(cache, generation.priority.value).observe(
            stamps[0] - generation.submitted_at
        )
        for earlier, later in itertools.pairwise(stamps):
            self._inter_token.observe(later - earlier)


def _histogram(
    name: str, text: str, labels: tuple[str, ...], registry: CollectorRegistry
) -> Histogram:
    return Histogram(name, text, labels, buckets=SECONDS, registry=registry)
