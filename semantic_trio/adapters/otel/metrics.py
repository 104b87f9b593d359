"""The message with a reading of the metrics: the same figures under the same names as `/metrics`.

Knows the families of the Prometheus client.
"""

import itertools
import math
from collections.abc import Sequence
from typing import TypedDict

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AGGREGATION_TEMPORALITY_CUMULATIVE,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

from semantic_trio.adapters.otel.readings import MetricsReading
from semantic_trio.adapters.otel.resource import attribute, resource, scope

NANOSECONDS = 1_000_000_000


def metrics_message(reading: MetricsReading, version: str) -> bytes:
    """Return the message with a reading."""
    metrics = [_metric(family, reading) for family in reading.families if family.samples]
    of_scope = ScopeMetrics(scope=scope(version), metrics=metrics)
    message: bytes = ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=resource(version), scope_metrics=[of_scope])]
    ).SerializeToString()
    return message


def _metric(family: Family, reading: MetricsReading) -> Metric:
    name, description = family.name, family.documentation
    if family.type == "histogram":
        points = [_histogram_point(samples, reading) for samples in _by_labels(family.samples)]
        histogram = Histogram(
            data_points=points, aggregation_temporality=AGGREGATION_TEMPORALITY_CUMULATIVE
        )
        return Metric(name=name, description=description, histogram=histogram)
    if family.type == "counter":
        counts = [
            _point(sample, reading) for sample in family.samples if sample.name.endswith("_total")
        ]
        total = Sum(
            data_points=counts,
            is_monotonic=True,
            aggregation_temporality=AGGREGATION_TEMPORALITY_CUMULATIVE,
        )
        return Metric(name=f"{name}_total", description=description, sum=total)
    return Metric(
        name=name,
        description=description,
        gauge=Gauge(data_points=[_point(sample, reading) for sample in family.samples]),
    )


def _point(sample: Sample, reading: MetricsReading) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=_attributes(sample), as_double=sample.value, **_times(reading)
    )


def _histogram_point(samples: Sequence[Sample], reading: MetricsReading) -> HistogramDataPoint:
    """Return a histogram; OTLP wants the count of each bucket by itself, and Prometheus has them
    added up.
    """
    buckets = sorted(
        (float(sample.labels["le"]), sample.value)
        for sample in samples
        if sample.name.endswith("_bucket")
    )
    counts = [
        later - earlier
        for earlier, later in itertools.pairwise([0.0, *(value for _, value in buckets)])
    ]
    return HistogramDataPoint(
        attributes=_attributes(samples[0]),
        count=int(buckets[-1][1]),
        sum=next(sample.value for sample in samples if sample.name.endswith("_sum")),
        bucket_counts=[int(count) for count in counts],
        explicit_bounds=[bound for bound, _ in buckets if not math.isinf(bound)],
        **_times(reading),
    )


def _by_labels(samples: Sequence[Sample]) -> list[list[Sample]]:
    """Samples of a histogram, those with the same labels together."""
    found: dict[tuple[tuple[str, str], ...], list[Sample]] = {}
    for sample in samples:
        labels = tuple(
            sorted((name, value) for name, value in sample.labels.items() if name != "le")
        )
        found.setdefault(labels, []).append(sample)
    return [
        group
        for group in found.values()
        if any(sample.name.endswith("_bucket") for sample in group)
    ]


def _attributes(sample: Sample) -> list[KeyValue]:
    return [attribute(name, value) for name, value in sample.labels.items() if name != "le"]


class _Times(TypedDict):
    start_time_unix_nano: int
    time_unix_nano: int


def _times(reading: MetricsReading) -> _Times:
    return {
        "start_time_unix_nano": round(reading.since * NANOSECONDS),
        "time_unix_nano": round(reading.time * NANOSECONDS),
    }
