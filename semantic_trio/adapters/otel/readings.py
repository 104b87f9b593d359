"""Readings of the metrics, taken every few seconds for a collector.

Knows the families of the Prometheus client. Needs no extra.
"""

import time
from collections.abc import Callable, Iterable

import attrs
import trio
from prometheus_client.metrics_core import Metric as Family

from semantic_trio.application.delivery import Delivery

# Seconds between two readings.
INTERVAL_SECONDS = 15.0


@attrs.frozen(eq=False)
class MetricsReading:
    """All metrics at one moment."""

    families: tuple[Family, ...]
    since: float  # seconds since 1970 when counting began
    time: float  # of the reading


@attrs.define(eq=False)
class MetricsReporter:
    """Reads the metrics again and again, and offers them to a delivery."""

    delivery: Delivery[MetricsReading]
    collect: Callable[[], Iterable[Family]] = tuple  # set when there are metrics
    wall_clock: Callable[[], float] = time.time
    _since: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._since = self.wall_clock()

    async def run(self) -> None:
        """Read until cancelled."""
        while True:
            await trio.sleep(INTERVAL_SECONDS)
            self.read()

    def read(self) -> None:
        """Read once."""
        if families := tuple(self.collect()):
            self.delivery.offer(MetricsReading(families, self._since, self.wall_clock()))
