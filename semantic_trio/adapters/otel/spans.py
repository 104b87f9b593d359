"""Spans of requests: the request, and below it queue, prefill, decode and encode of each of its
generations.

Knows observations. A span is made when its request or generation is over, so nothing of a trace is
kept while a request is open.
"""

import secrets
from collections.abc import Iterator, Sequence

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from semantic_trio.adapters.otel.resource import attribute, resource, scope
from semantic_trio.domain.observation import GenerationEnded, Observed, RequestEnded

NANOSECONDS = 1_000_000_000


def trace_message(batch: Sequence[Observed], version: str) -> bytes | None:
    """Return the message with the spans of observations; None if there are none."""
    spans = [span for observed in batch for span in _spans(observed)]
    if not spans:
        return None
    of_scope = ScopeSpans(scope=scope(version), spans=spans)
    message: bytes = ExportTraceServiceRequest(
        resource_spans=[ResourceSpans(resource=resource(version), scope_spans=[of_scope])]
    ).SerializeToString()
    return message


def _spans(observed: Observed) -> Iterator[Span]:
    observation = observed.observation
    if (
        not isinstance(observation, RequestEnded | GenerationEnded)
        or observation.trace is None
        or not observation.trace.is_sampled
    ):
        return
    if isinstance(observation, RequestEnded):
        yield _request_span(observed, observation)
        return
    trace = observation.trace
    attributes = [
        attribute("semantic.request_id", observation.request_id),
        attribute("semantic.agent", observation.agent),
    ]
    for name, start, end in _stages(observation):
        yield Span(
            trace_id=bytes.fromhex(trace.trace_id),
            span_id=secrets.token_bytes(8),
            parent_span_id=bytes.fromhex(trace.span_id),
            name=name,
            kind=Span.SPAN_KIND_INTERNAL,
            start_time_unix_nano=_wall(observed, start),
            end_time_unix_nano=_wall(observed, end),
            attributes=attributes + _stage_attributes(name, observation),
        )


def _request_span(observed: Observed, request: RequestEnded) -> Span:
    assert request.trace is not None
    is_error = not request.status.isdigit() or int(request.status) >= 500
    return Span(
        trace_id=bytes.fromhex(request.trace.trace_id),
        span_id=bytes.fromhex(request.trace.span_id),
        parent_span_id=bytes.fromhex(request.trace.parent_id),
        name="request",
        kind=Span.SPAN_KIND_SERVER,
        start_time_unix_nano=_wall(observed, request.began_at),
        end_time_unix_nano=_wall(observed, request.ended_at),
        attributes=[
            attribute("semantic.request_id", request.request_id),
            attribute("semantic.agent", request.agent),
            attribute("semantic.protocol", request.protocol),
            attribute("semantic.status", request.status),
            attribute("gen_ai.request.model", request.model),
            attribute("gen_ai.usage.input_tokens", request.prompt_tokens),
            attribute("gen_ai.usage.output_tokens", request.completion_tokens),
            attribute("semantic.reused_tokens", request.reused_tokens),
        ],
        status=Status(code=Status.STATUS_CODE_ERROR if is_error else Status.STATUS_CODE_UNSET),
    )


def _stages(generation: GenerationEnded) -> Iterator[tuple[str, float, float]]:
    """Yield the stages of a generation with their beginnings and ends, as far as it has come."""
    started, closed = generation.started_at, generation.closed_at
    yield "queue", generation.submitted_at, closed if started is None else started
    if started is None:
        return
    first, last = (
        (generation.stamps[0], generation.stamps[-1]) if generation.stamps else (closed, closed)
    )
    yield "prefill", started, first
    if generation.stamps:
        yield "decode", first, last
        yield "encode", last, closed


def _stage_attributes(name: str, generation: GenerationEnded) -> list[KeyValue]:
    if name == "prefill":
        return [
            attribute("semantic.reused_tokens", generation.reuse.tokens),
            attribute("semantic.reuse_source", generation.reuse.source.value),
        ]
    return (
        [attribute("gen_ai.usage.output_tokens", generation.completion_tokens)]
        if name == "decode"
        else []
    )


def _wall(observed: Observed, at: float) -> int:
    """Return a moment on trio's clock in nanoseconds since 1970."""
    return round((observed.time - observed.at + at) * NANOSECONDS)
