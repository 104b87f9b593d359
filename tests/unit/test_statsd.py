"""Metrics as lines of StatsD."""

import errno
import socket
import sys
from collections.abc import Iterator

import attrs
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.metrics_core import Metric as Family

from semantic_trio.adapters.statsd import StatsdSink
from semantic_trio.adapters.statsd.sink import MESSAGE_BYTES, Line, encoded, messages
from semantic_trio.entrypoints.observing import sinks_of
from semantic_trio.entrypoints.settings import Settings


@attrs.frozen
class Reading:
    """All metrics at one moment."""

    families: tuple[Family, ...]


@attrs.define
class Daemon:
    """A socket that keeps what comes."""

    udp: socket.socket

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.udp.getsockname()[1]}"

    def lines(self) -> list[str]:
        """The lines of the next message, which has been sent already."""
        return self.udp.recv(65_536).decode().split("\n")


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(30)
        yield Daemon(udp)


def reading(registry: CollectorRegistry) -> Reading:
    return Reading(tuple(registry.collect()))


def test_counters_are_sent_by_what_they_have_grown_and_gauges_as_they_are(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink(daemon.address)
    requests = Counter("requests", "Requests.", ("model", "status"), registry=registry)
    rows = Gauge("rows", "Rows.", registry=registry)
    requests.labels("org/tiny:x|c", "").inc(3)
    rows.set(2.5)
    sink.write([reading(registry)])
    first = daemon.lines()
    requests.labels("org/tiny:x|c", "").inc()
    rows.set(0)
    sink.write([reading(registry)])

    assert first == ["requests_total.org_tiny_x_c._:3|c", "rows:2.5|g"]
    assert daemon.lines() == ["requests_total.org_tiny_x_c._:1|c", "rows:0|g"]


def test_a_histogram_is_its_count_and_its_sum(daemon: Daemon) -> None:
    registry = CollectorRegistry()
    seconds = Histogram("seconds", "Seconds.", registry=registry, buckets=(1, 2))
    seconds.observe(0.25)
    seconds.observe(3e-5)

    StatsdSink(daemon.address).write([reading(registry)])

    assert daemon.lines() == ["seconds_count:2|c", "seconds_sum:0.25003|c"]


def test_of_several_readings_the_last_is_sent_and_what_is_no_number_is_not(daemon: Daemon) -> None:
    registry = CollectorRegistry()
    rows, odd = (
        Gauge("rows", "Rows.", registry=registry),
        Gauge("odd", "No number.", registry=registry),
    )
    odd.set(float("nan"))
    rows.set(1)
    before = reading(registry)
    rows.set(2)

    StatsdSink(daemon.address).write([before, reading(registry)])

    assert daemon.lines() == ["rows:2|g"]


def test_messages_fit_into_a_frame_and_split_no_line() -> None:
    lines = [Line(f"name_{number}:{number}|g") for number in range(500)]

    packed = list(map(encoded, messages(lines)))

    assert max(map(len, packed)) <= MESSAGE_BYTES
    assert b"\n".join(packed).decode().split("\n") == [line.text for line in lines]
    assert len(packed) == -(-sum(len(line.text) + 1 for line in lines) // MESSAGE_BYTES) == 6
    assert list(messages([])) == []


def test_what_could_not_be_sent_is_sent_with_the_next_message(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink("a..name:1")
    requests = Counter("requests", "Requests.", registry=registry)
    requests.inc(3)
    with pytest.raises(OSError, match=r"a\.\.name:1 is no address"):
        sink.write([reading(registry)])
    sink.address = daemon.address
    requests.inc()
    sink.write([reading(registry)])

    assert daemon.lines() == ["requests_total:4|c"]


def test_counters_of_a_message_before_a_failure_are_not_sent_again(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink(daemon.address)
    requests = Counter("requests", "Requests.", registry=registry)
    models = Counter("models", "Models.", ("name",), registry=registry)
    requests.inc(3)
    models.labels("x" * 70_000).inc()  # more than a datagram holds
    for _ in range(2):
        with pytest.raises(OSError, match=r".") as failure:
            sink.write([reading(registry)])
        assert failure.value.errno == errno.EMSGSIZE
    models.clear()
    requests.inc()
    sink.write([reading(registry)])

    assert [daemon.lines(), daemon.lines()] == [["requests_total:3|c"], ["requests_total:1|c"]]


@pytest.mark.skipif(sys.platform != "linux", reason="a refusal may come after the call")
def test_counters_that_are_refused_are_sent_with_the_next_message(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink(daemon.address)
    requests = Counter("requests", "Requests.", registry=registry)
    requests.inc(3)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.connect(("127.0.0.1", daemon.udp.getsockname()[1]))  # takes nothing from others
        sink.address = f"127.0.0.1:{elsewhere.getsockname()[1]}"
        with pytest.raises(ConnectionRefusedError):
            sink.write([reading(registry)])
    sink.address = daemon.address
    sink.write([reading(registry)])

    assert daemon.lines() == ["requests_total:3|c"]


def test_a_counter_that_one_reading_lacks_is_not_sent_anew_with_the_next(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink(daemon.address)
    requests = Counter("requests", "Requests.", registry=registry)
    rows = Gauge("rows", "Rows.", registry=registry)
    requests.inc(3)
    sink.write([reading(registry)])
    registry.unregister(requests)
    sink.write([reading(registry)])
    registry.register(requests)
    requests.inc()
    rows.set(1)
    sink.write([reading(registry)])

    assert [daemon.lines() for _ in range(3)] == [
        ["requests_total:3|c", "rows:0|g"],
        ["rows:0|g"],
        ["requests_total:1|c", "rows:1|g"],
    ]


def test_counters_whose_labels_give_one_name_are_added_up(daemon: Daemon) -> None:
    registry, sink = CollectorRegistry(), StatsdSink(daemon.address)
    requests = Counter("requests", "Requests.", ("model",), registry=registry)
    for growth in (2, 1):
        requests.labels("tiny.1").inc(growth)
        requests.labels("tiny_1").inc(growth)
        sink.write([reading(registry)])

    assert [daemon.lines(), daemon.lines()] == [
        ["requests_total.tiny_1:4|c"],
        ["requests_total.tiny_1:2|c"],
    ]


def test_the_setting_makes_a_sink_of_its_own() -> None:
    assert [one.name for one in sinks_of(Settings(statsd_address="127.0.0.1:8125")).deliveries] == [
        "statsd"
    ]
    both = Settings(statsd_address="[::1]:8125", otlp_endpoint="http://127.0.0.1:4318")
    assert [one.name for one in sinks_of(both).deliveries] == [
        "otlp_traces",
        "statsd",
        "otlp_metrics",
    ]
    assert sinks_of(Settings()).deliveries == ()


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "host:",
        "host:0",
        "host:65536",
        ":8125",
        "http://host:8125",
        "::1:8125",
        "host:8125/path",
    ],
)
def test_what_is_no_address_of_a_daemon_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"statsd_address: .* write host:port"):
        Settings(statsd_address=address)
