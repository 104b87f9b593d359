"""Metrics as lines of StatsD, by UDP.

Blocking. Knows the families of the Prometheus client and one address. A counter is sent by what it
has grown since the last message: the daemon adds up. StatsD has no labels: their values are parts
of the name, in the order of the labels. A histogram is sent as two counters, its count and its sum.
"""

import collections
import math
import os
import re
import socket
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol
from urllib.parse import urlsplit

import attrs
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.samples import Sample

# Bytes of a message: what one Ethernet frame holds, beside the headers of IPv6 and UDP.
MESSAGE_BYTES = 1432
# Time in which the message has to be taken, in seconds: less than the deadline of a delivery.
TIMEOUT_SECONDS = 2.0
# Characters that separate the parts of a line, and all others that daemons may not take.
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_-]")
# Ends of the names of samples that count. Times of creation and the buckets of histograms are not
# sent.
COUNTED = ("_total", "_count", "_sum")


class Reading(Protocol):
    """All metrics at one moment."""

    @property
    def families(self) -> tuple[Family, ...]:
        """The metrics."""


@attrs.frozen
class Line:
    """A line of a message."""

    text: str
    name: str = ""  # of the counter; empty for a gauge
    count: float = 0.0  # the value of the counter, which the daemon has with this line


@attrs.define(eq=False)
class StatsdSink:
    """A sink of readings.

    Of several that have waited only the last is sent: it has the counts of those before it.
    """

    address: str  # as `127.0.0.1:8125`
    # counters by their names, as the daemon has them
    _sent: dict[str, float] = attrs.field(init=False, factory=dict)

    def write(self, batch: Sequence[Reading]) -> None:
        """See `Sink`.

        Raises `OSError` if there is no such address, or if its host says that nothing listens
        there. Counters of the messages before the failure are not sent again.
        """
        families = batch[-1].families
        with self._connected() as udp:
            for lines in messages([*self._grown(families), *_gauges(families)]):
                _send(udp, lines)
                self._sent.update({line.name: line.count for line in lines if line.name})

    def _grown(self, families: Iterable[Family]) -> Iterator[Line]:
        for name, count in _counters(families).items():
            if (grown := count - self._sent.get(name, 0.0)) > 0:
                yield Line(f"{name}:{_number(grown)}|c", name, count)

    def _connected(self) -> socket.socket:
        url = urlsplit(f"udp://{self.address}")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                url.hostname, url.port, type=socket.SOCK_DGRAM
            )[0]
        except UnicodeError as error:  # of a name with an empty part, or one that is too long
            raise OSError(f"{self.address} is no address") from error
        udp = socket.socket(family, kind, protocol)
        try:
            udp.settimeout(TIMEOUT_SECONDS)
            udp.connect(address)
        except OSError:
            udp.close()
            raise
        return udp


def messages(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Divide lines into messages of at most `MESSAGE_BYTES`."""
    message: list[Line] = []
    size = -1  # the first line has no newline before it
    for line in lines:
        size += 1 + len(line.text)
        if message and size > MESSAGE_BYTES:
            yield message
            message, size = [], len(line.text)
        message.append(line)
    if message:
        yield message


def encoded(lines: Iterable[Line]) -> bytes:
    """Return a message as it is sent."""
    return "\n".join(line.text for line in lines).encode("ascii")


def _send(udp: socket.socket, lines: Iterable[Line]) -> None:
    """Send a message.

    Raises `OSError` if it was refused. A daemon of this host refuses a message before the call
    returns; another host's refusal comes later, and fails the next message of the same socket.
    """
    udp.send(encoded(lines))
    if refused := udp.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        raise OSError(refused, os.strerror(refused))


def _counters(families: Iterable[Family]) -> dict[str, float]:
    """Return the counters by their names; those whose labels give one name are added up."""
    counts: dict[str, float] = collections.defaultdict(float)
    for family in families:
        if family.type in {"counter", "histogram"}:
            for one in family.samples:
                if one.name.endswith(COUNTED):
                    counts[_name(one)] += one.value
    return counts


def _gauges(families: Iterable[Family]) -> Iterator[Line]:
    for family in families:
        if family.type == "gauge":
            yield from (
                Line(f"{_name(one)}:{_number(one.value)}|g")
                for one in family.samples
                if math.isfinite(one.value)
            )


def _name(sample: Sample) -> str:
    """Return the name of a sample with the values of its labels."""
    return ".".join(
        NOT_IN_NAMES.sub("_", part) or "_" for part in (sample.name, *sample.labels.values())
    )


def _number(value: float) -> str:
    """Return a number without an exponent, which some daemons cannot read."""
    return f"{value:.6f}".rstrip("0").rstrip(".")
