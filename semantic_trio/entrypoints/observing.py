"""The sinks that the settings name: which there are, and for how long they are written to.

Knows settings and sinks. Knows nothing of what is observed.
"""

import contextlib
from collections.abc import AsyncIterator
from typing import Never

import attrs
import trio

import semantic_trio
from semantic_trio.adapters.events import EventFile
from semantic_trio.adapters.metrics import Metrics
from semantic_trio.adapters.otel import MetricsReading, MetricsReporter
from semantic_trio.adapters.statsd import StatsdSink
from semantic_trio.application.delivery import DeliveringObserver, Delivery
from semantic_trio.application.observers import Observers
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.observation import Observed
from semantic_trio.entrypoints.ending import SINK_SECONDS
from semantic_trio.entrypoints.settings import Settings

# Time for company, in seconds: a message to a collector costs more than a line in a file.
COLLECTOR_LINGER_SECONDS = 1.0


@attrs.frozen(eq=False)
class Sinks:
    """The sinks of one server."""

    observations: tuple[Delivery[Observed], ...]
    metrics: tuple[MetricsReporter, ...] = ()

    @property
    def deliveries(self) -> tuple[Delivery[Never], ...]:
        """All deliveries."""
        return (*self.observations, *(reporter.delivery for reporter in self.metrics))

    def join(self, observers: Observers, metrics: Metrics) -> None:
        """Deliver what is observed from now on, and the metrics."""
        for delivery in self.observations:
            observers.add(DeliveringObserver(delivery))
        for reporter in self.metrics:
            reporter.collect = metrics.registry.collect

    @contextlib.asynccontextmanager
    async def delivering(self) -> AsyncIterator[None]:
        """Write to the sinks until the context ends, and then what still waits, for `SINK_SECONDS`
        at most.
        """
        async with trio.open_nursery() as nursery:
            for delivery in self.deliveries:
                nursery.start_soon(delivery.run)
            for reporter in self.metrics:
                nursery.start_soon(reporter.run)
            yield
            async with trio.open_nursery() as flushing:
                for delivery in self.deliveries:
                    flushing.start_soon(delivery.flush, SINK_SECONDS)
            nursery.cancel_scope.cancel()


def sinks_of(settings: Settings) -> Sinks:
    """Return the sinks that the settings name.

    Raises `InvalidRequestError` if one of them needs an extra that is not installed.
    """
    events = (
        ()
        if settings.event_log is None
        else (Delivery("event_log", EventFile(settings.event_log)),)
    )
    statsd = (
        (MetricsReporter(Delivery("statsd", StatsdSink(settings.statsd_address))),)
        if settings.statsd_address
        else ()
    )
    if not settings.otlp_endpoint:
        return Sinks(events, statsd)
    try:
        # an extra
        from semantic_trio.adapters.otel.collector import Collector, MetricsSink, TraceSink
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            (
                "needs a package that is not installed: pip install 'semantic-trio[otel]' "
                f"({error.name})"
            ),
            "otlp_endpoint",
        ) from error
    collector = Collector(settings.otlp_endpoint, semantic_trio.__version__)
    traces: Delivery[Observed] = Delivery(
        "otlp_traces", TraceSink(collector), COLLECTOR_LINGER_SECONDS
    )
    metrics: Delivery[MetricsReading] = Delivery(
        "otlp_metrics", MetricsSink(collector), COLLECTOR_LINGER_SECONDS
    )
    return Sinks((*events, traces), (*statsd, MetricsReporter(metrics)))
