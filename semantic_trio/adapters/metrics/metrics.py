"""Metrics for Prometheus, under the names of the manual.

Counts requests, generations and loads as they are reported, and reads the open models when scraped.
Agents are never labels: the number of series does not grow with the number of agents.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Never

import attrs
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Gauge, generate_latest

from semantic_trio.adapters.metrics.disk import DiskCollector
from semantic_trio.adapters.metrics.events import ModelMetrics, TurnMetrics
from semantic_trio.adapters.metrics.models import ModelsCollector, WatchedModel
from semantic_trio.adapters.metrics.sinks import SinkCollector
from semantic_trio.application.delivery import Delivery
from semantic_trio.application.model_entry import Lookups
from semantic_trio.domain.observation import (
    GenerationEnded,
    ModelLoaded,
    ModelSwapped,
    ModelUnloaded,
    Observation,
    RequestEnded,
    Written,
)


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
    lookups: Lookups = attrs.field(factory=Lookups)  # that whoever opens models counts
    registry: CollectorRegistry = attrs.field(init=False, factory=CollectorRegistry)
    _turns: TurnMetrics = attrs.field(init=False)
    _changes: ModelMetrics = attrs.field(init=False)
    _models: ModelsCollector = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._turns = TurnMetrics.registered(self.registry)
        self._changes = ModelMetrics.registered(self.registry)
        build = Gauge(
            "semantic_build_info",
            "Version and commit of the server.",
            ("version", "commit"),
            registry=self.registry,
        )
        build.labels(self.build.version, self.build.commit).set(1)
        self._models = ModelsCollector(self.memory, self.lookups)
        self.registry.register(self._models)
        self.registry.register(DiskCollector(self._models))
        self.registry.register(SinkCollector(self.sinks))

    def tokenized(self, seconds: float) -> None:
        """Observe how long the tokens of a request took."""
        self._turns.tokenizations.observe(seconds)

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
                self._turns.request_ended(observation)
            case GenerationEnded():
                self._turns.generation_ended(observation)
            case Written(agent=str()):
                self._turns.records.observe(observation.seconds)
            case ModelLoaded():
                self._changes.loads.observe(observation.seconds)
            case ModelUnloaded():
                self._changes.unloads.labels(observation.cause).inc()
            case ModelSwapped(is_done=True):
                self._changes.swaps.observe(observation.seconds)
            case ModelSwapped():
                self._changes.failed_swaps.inc()
            case _:
                pass  # counted where it happens, and read when scraped
