"""Traces and metrics arrive at a collector as they should, and a collector that is not there costs
nothing.
"""

import contextlib
import socket
import sys
from collections.abc import Callable, Iterator

import attrs
import pytest
import structlog
import trio
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from semantic_trio.adapters.http.common.trace_context import trace_context
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.adapters.http.serving.served_model import ENCODE_IN_LOOP_CHARACTERS
from semantic_trio.adapters.otel import MetricsReading, MetricsReporter
from semantic_trio.adapters.otel.collector import Collector, MetricsSink, TraceSink
from semantic_trio.adapters.otel.readings import INTERVAL_SECONDS
from semantic_trio.application.delivery import Delivery
from semantic_trio.domain.conversation import AnswerPart, Conversation
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.observation import (
    GenerationEnded,
    Observation,
    Observed,
    RequestEnded,
    TraceContext,
)
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.entrypoints.observing import sinks_of
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.testing import ByteCodec, FakeRunner
from semantic_trio.testing.codec import ByteReader
from tests.http.serving import anthropic_body, openai_body, post, running, served
from tests.otlp import Received, collector

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
WALL = 1_800_000_000.0


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> Iterator[Received]:
    """A collector. It may be as slow as the machine that the tests run on."""
    monkeypatch.setattr("semantic_trio.adapters.otel.collector.TIMEOUT_SECONDS", 60.0)
    with collector() as found:
        yield found


@attrs.define(eq=False)
class Recorder:
    """Keeps what is observed, as sinks get it."""

    observed: list[Observed] = attrs.field(factory=list)

    def observe(self, observation: Observation) -> None:
        now = trio.current_time()
        self.observed.append(Observed(len(self.observed) + 1, WALL + now, now, observation))


async def traced(*headers: dict[str, str], settings: HttpSettings | None = None) -> list[Observed]:
    """Observations of one request for each set of headers, on virtual time."""
    async with running(
        served(FakeRunner(seconds_per_step=0.05), settings or HttpSettings(traces=True))
    ) as server:
        recorder = Recorder()
        server.observers.add(recorder)
        for one in headers:
            call = await post(
                server.app,
                "/v1/chat/completions",
                openai_body(max_tokens=5, session_id="ada"),
                **one,
            )
            assert call.status == 200
    return recorder.observed


def sent(received: Received, observed: list[Observed]) -> dict[str, Span]:
    TraceSink(Collector(received.url, "1.2.3")).write(observed)
    return {span.name: span for span in received.spans}


def attributes(span: Span) -> dict[str, object]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


# -------------------------------------------------------------------------------------------- spans


async def test_a_request_is_a_trace_of_its_stages(
    autojump_clock: trio.testing.MockClock, received: Received
) -> None:
    observed = await traced({"x-request-id": "r-1"})
    spans = sent(received, observed)

    assert list(spans) == ["queue", "prefill", "decode", "encode", "request"]
    request = spans.pop("request")
    assert request.kind == Span.SPAN_KIND_SERVER
    assert request.parent_span_id == b""
    assert {span.trace_id for span in spans.values()} == {request.trace_id}
    assert {span.parent_span_id for span in spans.values()} == {request.span_id}
    assert len({span.span_id for span in spans.values()} | {request.span_id}) == 5
    times = [(span.start_time_unix_nano, span.end_time_unix_nano) for span in spans.values()]
    assert all(end == start for (_, end), (start, _) in zip(times, times[1:], strict=False)), (
        "each stage begins where the one before ends"
    )
    assert request.start_time_unix_nano <= times[0][0]
    assert times[-1][1] <= request.end_time_unix_nano
    assert times[2][1] - times[2][0] == pytest.approx(4 * 0.05e9, abs=0.051e9), (
        "five tokens, and the last may come with the one before"
    )
    assert request.start_time_unix_nano >= WALL * 1e9
    assert (
        attributes(request)["semantic.request_id"]
        == attributes(spans["decode"])["semantic.request_id"]
        == "r-1"
    )
    assert (
        attributes(request)["semantic.agent"]
        == attributes(spans["queue"])["semantic.agent"]
        == "ada"
    )
    assert attributes(request)["gen_ai.usage.output_tokens"] == 5
    [resource] = [of.resource for message in received.traces for of in message.resource_spans]
    assert {one.key: one.value.string_value for one in resource.attributes} == {
        "service.name": "semantic-trio",
        "service.version": "1.2.3",
    }


async def test_a_trace_goes_on_that_a_client_has_begun(
    autojump_clock: trio.testing.MockClock, received: Received
) -> None:
    spans = sent(received, await traced({"traceparent": TRACEPARENT}))

    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    assert spans["request"].parent_span_id.hex() == PARENT


async def test_a_trace_that_its_client_does_not_record_is_not_sent(
    autojump_clock: trio.testing.MockClock, received: Received
) -> None:
    assert sent(received, await traced({"traceparent": f"00-{TRACE}-{PARENT}-00"})) == {}
    assert received.traces == []


async def test_every_request_without_a_trace_begins_one_of_its_own(
    autojump_clock: trio.testing.MockClock, received: Received
) -> None:
    sent(received, await traced({}, {"traceparent": "nonsense"}))

    assert len({span.trace_id for span in received.spans}) == 2


async def test_without_a_collector_no_trace_is_begun(
    autojump_clock: trio.testing.MockClock,
) -> None:
    observed = await traced({}, settings=HttpSettings())

    assert {
        one.observation.trace
        for one in observed
        if isinstance(one.observation, RequestEnded | GenerationEnded)
    } == {None}


TRACED = TraceContext("1" * 32, "2" * 16)


@pytest.mark.parametrize(
    ("observation", "names"),
    [
        (GenerationEnded(request_id="r", submitted_at=1.0, closed_at=2.0, trace=TRACED), ["queue"]),
        (
            GenerationEnded(
                request_id="r", submitted_at=1.0, started_at=1.5, closed_at=2.0, trace=TRACED
            ),
            ["queue", "prefill"],
        ),
        (RequestEnded(request_id="r", status="500", trace=TRACED), ["request"]),
    ],
    ids=["never had a row", "left while its prompt was read", "failed"],
)
def test_a_generation_that_was_given_up_has_the_stages_it_came_to(
    observation: Observation, names: list[str], received: Received
) -> None:
    assert list(sent(received, [Observed(1, WALL, 2.0, observation)])) == names


@pytest.mark.parametrize(
    ("status", "is_error"),
    [
        ("200", False),
        ("404", False),
        ("429", False),
        ("500", True),
        ("503", True),
        ("aborted", True),
        ("client_gone", True),
    ],
)
def test_the_span_of_a_request_that_failed_says_so(
    status: str, is_error: bool, received: Received
) -> None:
    spans = sent(
        received,
        [Observed(1, WALL, 2.0, RequestEnded(request_id="r", status=status, trace=TRACED))],
    )

    assert (spans["request"].status.code == Status.STATUS_CODE_ERROR) == is_error


@pytest.mark.parametrize(
    "header",
    [
        "",
        TRACEPARENT.upper(),
        TRACEPARENT[:-3],
        f"ff-{TRACE}-{PARENT}-01",
        f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"{TRACEPARENT}-more",
        f"00-{TRACE}x-{PARENT}-01",
        f"{TRACEPARENT}\n{TRACEPARENT}",
    ],
)
def test_a_header_that_is_not_of_the_specification_counts_as_none(header: str) -> None:
    assert trace_context({"traceparent": header}, begins_traces=False) is None
    found = trace_context({"traceparent": header}, begins_traces=True)
    assert found is not None
    assert found.parent_id == ""
    assert found.trace_id != TRACE


@pytest.mark.parametrize(
    "header",
    [
        TRACEPARENT,
        f"01-{TRACE}-{PARENT}-03",
        f"cc-{TRACE}-{PARENT}-01-what-comes-later",
        f" {TRACEPARENT} ",
    ],
)
def test_a_header_of_the_specification_and_of_later_ones_is_read(header: str) -> None:
    found = trace_context({"traceparent": header}, begins_traces=False)

    assert found is not None
    assert (found.trace_id, found.parent_id, found.is_sampled) == (TRACE, PARENT, True)


@contextlib.contextmanager
def logged() -> Iterator[list[dict[str, object]]]:
    """The lines that are logged, with the ids that the task of each has bound."""
    lines: list[dict[str, object]] = []

    def keep(_: object, __: str, entry: structlog.typing.EventDict) -> structlog.typing.EventDict:
        lines.append(dict(entry))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, keep])
    try:
        yield lines
    finally:
        structlog.configure(**before)


async def test_the_log_lines_of_a_request_have_the_ids_of_its_trace_and_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    with logged() as lines:
        observed = await traced(
            {"traceparent": TRACEPARENT, "x-request-id": "r-1"},
            settings=HttpSettings(log_prompts=True),
        )

    [ended] = [one.observation for one in observed if isinstance(one.observation, RequestEnded)]
    assert ended.trace is not None
    found = [line for line in lines if line.get("request_id") == "r-1"]
    assert {line["event"] for line in found} == {"prompt", "request"}
    assert {(line["trace_id"], line["span_id"]) for line in found} == {(TRACE, ended.trace.span_id)}
    assert next(line for line in found if line["event"] == "request")["agent"] == "ada"


async def test_the_engines_lines_about_a_request_have_the_ids_of_its_trace_and_agent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The engine is a task of its own, which no request has bound its ids in."""
    ids = {"x-request-id": "r-1", "x-agent-id": "ada"}
    with logged() as lines:
        async with (
            running(served(FakeRunner(seconds_per_prompt_token=0.2), rows=1)) as server,
            trio.open_nursery() as nursery,
        ):
            background = {"traceparent": TRACEPARENT, "x-semantic-priority": "background", **ids}
            nursery.start_soon(
                lambda: post(server.app, "/v1/messages", anthropic_body("a" * 200), **background)
            )
            await trio.sleep(1)
            await post(
                server.app, "/v1/messages", anthropic_body("b" * 1800), **{"x-request-id": "r-2"}
            )

    of_engine = [line for line in lines if line["event"] != "request" and "request_id" in line]
    found = {line["event"] for line in of_engine if line["request_id"] == "r-1"}
    assert found >= {"a long prompt is being read", "a background request has become interactive"}
    traced_ids = {
        (line.get("trace_id"), line["agent"]) for line in of_engine if line["request_id"] == "r-1"
    }
    assert traced_ids == {(TRACE, "ada")}
    assert all("trace_id" not in line for line in of_engine if line["request_id"] == "r-2"), (
        "it belongs to no trace"
    )


class LoudReader(ByteReader):
    """A reader that logs a line on each piece of an answer."""

    def push(self, text: str) -> list[AnswerPart]:
        structlog.get_logger().info("answer read")
        return super().push(text)


class LoudCodec(ByteCodec):
    """A codec that logs a line on each conversation."""

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        structlog.get_logger().info("prompt encoded")
        return super().encode_prompt(conversation, known)

    def reader(self, conversation: Conversation, opening: str) -> ByteReader:
        return LoudReader(False, opening, frozenset())


@pytest.mark.parametrize("size", [10, ENCODE_IN_LOOP_CHARACTERS + 1], ids=["loop", "thread"])
@pytest.mark.parametrize(
    ("path", "body", "headers"),
    [
        ("/v1/messages", anthropic_body, {"x-agent-id": "ada"}),
        ("/v1/messages/count_tokens", anthropic_body, {"x-agent-id": "ada"}),
        ("/v1/chat/completions", openai_body, {"x-agent-id": "ada"}),
        ("/v1/agents/ada/generate", lambda text: {"message": text, "max_tokens": 5}, {}),
        ("/v1/agents/ada/warm", lambda _: {}, {}),
    ],
)
async def test_the_codecs_lines_about_a_request_have_its_ids(
    path: str,
    body: Callable[[str], object],
    headers: dict[str, str],
    size: int,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), codec=LoudCodec())) as server:
        await post(server.app, "/v1/agents", {"id": "ada", "system": "a" * size})
        with logged() as lines:
            call = await post(
                server.app, path, body("a" * size), **{"x-request-id": "r", **headers}
            )

    found = [line for line in lines if line["event"] in {"prompt encoded", "answer read"}]
    assert found, call.content
    assert {(line.get("request_id"), line.get("agent")) for line in found} == {("r", "ada")}


async def test_the_line_of_a_failed_generation_has_the_ids_of_its_trace(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("on fire")

    with logged() as lines:
        async with running(served(FakeRunner(before_step=fail))) as server:
            await post(
                server.app,
                "/v1/messages",
                anthropic_body(),
                **{"traceparent": TRACEPARENT, "x-request-id": "r-1"},
            )

    [failed] = [line for line in lines if line["event"] == "a generation has failed"]
    [request] = [line for line in lines if line["event"] == "request"]
    assert (failed["request_id"], failed["trace_id"], failed["span_id"]) == (
        "r-1",
        TRACE,
        request["span_id"],
    )


# ------------------------------------------------------------------------------------------ metrics


async def test_metrics_arrive_under_the_names_of_the_manual(
    autojump_clock: trio.testing.MockClock, received: Received
) -> None:
    async with running(served(FakeRunner(seconds_per_step=0.05))) as server:
        for _ in range(2):
            await post(server.app, "/v1/chat/completions", openai_body(max_tokens=5))
    delivery: Delivery[MetricsReading] = Delivery(
        "metrics", MetricsSink(Collector(received.url, "1.2.3"))
    )
    MetricsReporter(delivery, server.metrics.registry.collect, lambda: WALL).read()
    delivery.sink.write(list(delivery._queue))
    found = received.metrics_of_last()

    [requests] = found["semantic_request_total"].sum.data_points
    assert requests.as_double == 2
    assert {one.key: one.value.string_value for one in requests.attributes} == {
        "model": "org/tiny",
        "protocol": "openai",
        "status": "200",
    }
    assert found["semantic_request_total"].sum.is_monotonic
    [durations] = found["semantic_request_duration_seconds"].histogram.data_points
    assert durations.count == sum(durations.bucket_counts) == 2
    assert len(durations.bucket_counts) == len(durations.explicit_bounds) + 1
    assert durations.explicit_bounds[0] == 0.001
    by_cache = {
        one.attributes[0].value.string_value: one.count
        for one in found["semantic_time_to_first_token_seconds"].histogram.data_points
    }
    assert by_cache == {"cold": 1, "ram": 1}
    assert found["semantic_rows"].gauge.data_points[0].as_double == 0
    names = {
        family.name + ("_total" if family.type == "counter" else "")
        for family in server.metrics.registry.collect()
        if family.samples
    }
    assert set(found) == names


async def test_metrics_are_read_again_and_again_once_there_are_any(
    autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    delivery: Delivery[MetricsReading] = Delivery(
        "metrics", MetricsSink(Collector("http://127.0.0.1:1", "1"))
    )
    reporter = MetricsReporter(delivery)
    nursery.start_soon(reporter.run)
    await trio.sleep(INTERVAL_SECONDS + 1)
    assert delivery.waiting == 0

    reporter.collect = served(FakeRunner()).metrics.registry.collect
    await trio.sleep(2 * INTERVAL_SECONDS)
    assert delivery.waiting == 2


# --------------------------------------------------------------------------- a collector that fails


def test_a_collector_that_refuses_is_an_os_error(received: Received) -> None:
    received.status = 503

    with pytest.raises(OSError, match="/otlp/v1/traces has answered 503"):
        sent(
            received,
            [Observed(1, WALL, 2.0, RequestEnded(request_id="r", status="200", trace=TRACED))],
        )


def test_a_collector_that_is_not_there_is_an_os_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else can
        with pytest.raises(ConnectionRefusedError):
            Collector(f"http://127.0.0.1:{taken.getsockname()[1]}", "1").send("/v1/traces", b"")


def test_observations_of_no_trace_are_not_sent() -> None:
    TraceSink(Collector("http://127.0.0.1:1", "1")).write(
        [Observed(1, WALL, 2.0, RequestEnded(request_id="r", status="200"))]
    )


# ----------------------------------------------------------------------------------------- settings


def test_nothing_is_sent_unless_a_setting_says_where() -> None:
    assert sinks_of(Settings()).deliveries == ()
    assert [
        one.name for one in sinks_of(Settings(otlp_endpoint="http://127.0.0.1:4318")).deliveries
    ] == ["otlp_traces", "otlp_metrics"]


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "semantic_trio.adapters.otel.collector", None)

    with pytest.raises(
        InvalidRequestError, match=r"otlp_endpoint: .*pip install 'semantic-trio\[otel\]'"
    ):
        sinks_of(Settings(otlp_endpoint="http://127.0.0.1:4318"))


@pytest.mark.parametrize(
    "endpoint",
    [
        "localhost:4318",
        "grpc://127.0.0.1:4317",
        "http://",
        "http://user:password@host",
        "http://host/x?y",
    ],
)
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="otlp_endpoint"):
        Settings(otlp_endpoint=endpoint)


@pytest.mark.parametrize(
    "endpoint",
    ["http://127.0.0.1:4318", "https://collector.example.com/otlp/", "http://[::1]:4318"],
)
def test_an_address_of_a_collector_is_taken(endpoint: str) -> None:
    assert Settings(otlp_endpoint=endpoint).otlp_endpoint == endpoint
