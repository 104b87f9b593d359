"""A collector of OpenTelemetry, by OTLP over HTTP.

Blocking. Knows addresses and answers. Knows nothing of what is in a message.
"""

import http.client
from collections.abc import Sequence
from urllib.parse import urlsplit

import attrs

from semantic_trio.adapters.otel.metrics import metrics_message
from semantic_trio.adapters.otel.readings import MetricsReading
from semantic_trio.adapters.otel.spans import trace_message
from semantic_trio.domain.observation import Observed

# Time for a connection, and for each answer of the collector, in seconds: less than the deadline of
# a delivery, so that a thread is seldom given up.
TIMEOUT_SECONDS = 4.0
CONTENT_TYPE = "application/x-protobuf"


@attrs.frozen
class Collector:
    """A collector, and the resource that is described to it."""

    endpoint: str  # as `http://127.0.0.1:4318`, or with a path
    version: str  # of the server

    def send(self, path: str, message: bytes) -> None:
        """POST a message.

        Raises `OSError` if the collector cannot be reached, does not answer, or refuses the
        message.
        """
        url = urlsplit(self.endpoint)
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=TIMEOUT_SECONDS)
        try:
            connection.request(
                "POST", url.path.rstrip("/") + path, message, {"content-type": CONTENT_TYPE}
            )
            status = connection.getresponse().status
        except http.client.HTTPException as error:
            raise OSError(f"{self.endpoint} does not speak HTTP: {error!r}") from error
        finally:
            connection.close()
        if status // 100 != 2:
            raise OSError(f"{self.endpoint}{path} has answered {status}")


@attrs.frozen
class TraceSink:
    """A sink of observations: those that are parts of a trace are sent as spans."""

    collector: Collector

    def write(self, batch: Sequence[Observed]) -> None:
        """See `Sink`."""
        message = trace_message(batch, self.collector.version)
        if message is not None:
            self.collector.send("/v1/traces", message)


@attrs.frozen
class MetricsSink:
    """A sink of metrics.

    Of several readings that have waited only the last is sent: it has the counts of those before
    it.
    """

    collector: Collector

    def write(self, batch: Sequence[MetricsReading]) -> None:
        """See `Sink`."""
        self.collector.send("/v1/metrics", metrics_message(batch[-1], self.collector.version))
