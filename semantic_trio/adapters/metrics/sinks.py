"""Figures of the sinks that observations are delivered to.

Reads the deliveries when scraped. Counts nothing itself.
"""

from collections.abc import Iterator, Sequence
from typing import Never

import attrs
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from semantic_trio.application.delivery import Delivery, DropCause
from semantic_trio.domain.breaker import BreakerState


@attrs.frozen(eq=False)
class SinkCollector(Collector):
    """Reads the deliveries when scraped. A server without sinks has no series of them."""

    sinks: Sequence[Delivery[Never]]

    def collect(self) -> Iterator[Metric]:
        """The figures of this moment."""
        delivered = CounterMetricFamily(
            "semantic_sink_delivered_events", "Events delivered.", labels=("sink",)
        )
        dropped = CounterMetricFamily(
            "semantic_sink_dropped_events",
            "Events not delivered, by cause.",
            labels=("sink", "cause"),
        )
        waiting = GaugeMetricFamily(
            "semantic_sink_waiting_events", "Events that wait to be delivered.", labels=("sink",)
        )
        breaker = GaugeMetricFamily(
            "semantic_sink_breaker_state",
            "1 for the state of the circuit breaker, else 0.",
            labels=("sink", "state"),
        )
        for sink in self.sinks:
            delivered.add_metric((sink.name,), sink.delivered)
            waiting.add_metric((sink.name,), sink.waiting)
            for cause in DropCause:
                dropped.add_metric((sink.name, cause.value), sink.dropped[cause])
            for state in BreakerState:
                breaker.add_metric((sink.name, state.value), float(sink.breaker.state is state))
        yield from (delivered, dropped, waiting, breaker)
