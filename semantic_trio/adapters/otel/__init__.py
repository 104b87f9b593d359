"""OpenTelemetry: traces and metrics for a collector, by OTLP over HTTP.

`collector` needs the extra `otel`.
"""

from semantic_trio.adapters.otel.readings import MetricsReading, MetricsReporter

__all__ = ["MetricsReading", "MetricsReporter"]
