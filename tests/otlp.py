"""A collector of OpenTelemetry on loopback: it receives OTLP over HTTP, and keeps the messages as
they were decoded.
"""

import contextlib
import http.server
import threading
from collections.abc import Iterator

import attrs
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import Span


@attrs.define(eq=False)
class Received:
    """A collector and its messages."""

    url: str = ""
    status: int = 200  # of its answers
    traces: list[ExportTraceServiceRequest] = attrs.field(factory=list)
    metrics: list[ExportMetricsServiceRequest] = attrs.field(factory=list)

    @property
    def spans(self) -> list[Span]:
        """All spans, in the order in which they came."""
        return [
            span
            for message in self.traces
            for of in message.resource_spans
            for scope in of.scope_spans
            for span in scope.spans
        ]

    def metrics_of_last(self) -> dict[str, Metric]:
        """Metrics of the last message, by name."""
        return {
            one.name: one
            for of in self.metrics[-1].resource_metrics
            for scope in of.scope_metrics
            for one in scope.metrics
        }


@contextlib.contextmanager
def collector() -> Iterator[Received]:
    """A collector that listens until the context ends."""
    received = Received()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            assert self.headers["content-type"] == "application/x-protobuf"
            if received.status == 200 and self.path == "/otlp/v1/traces":
                received.traces.append(ExportTraceServiceRequest.FromString(body))
            elif received.status == 200 and self.path == "/otlp/v1/metrics":
                received.metrics.append(ExportMetricsServiceRequest.FromString(body))
            self.send_response(received.status if self.path.startswith("/otlp/v1/") else 404)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        received.url = f"http://127.0.0.1:{server.server_address[1]}/otlp"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield received
        finally:
            server.shutdown()
            thread.join()
