"""Metrics as lines of StatsD, by UDP.

Blocking. Knows the families of the Prometheus client and one address. A counter is sent by what it
has grown since the last message: the daemon adds up. StatsD has no labels: their values are parts
of the name, in the order of the labels. A histogram is sent as two counters, its count and its sum.
"""

import math
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


@attrs.define(eq=False)
class StatsdSink:
    """A sink of readings.

    Of several that have waited only the last is sent: it has the counts of those before it.
    """

    address: str  # as `127.0.0.1:8125`
    # counters by their names, as of the last message
    _sent: dict[str, float] = attrs.field(init=False, factory=dict)

    def write(self, batch: Sequence[Reading]) -> None:
        """See `Sink`.

        Raises `OSError` if there is no such address, or if its host says that nothing listens
        there.
        """
        counts = dict(_counters(batch[-1].families))
        grown = [
            f"{name}:{_number(count - self._sent.get(name, 0))}|c"
            for name, count in counts.items()
            if count > self._sent.get(name, 0)
        ]
        self._send(messages([*grown, *_gauges(batch[-1].families)]))
        self._sent = counts

    def _send(self, packed: Iterable[bytes]) -> None:
        url = urlsplit(f"udp://{self.address}")
        try:
            family, kind, protocol, _, address = socket.getaddrinfo(
                url.hostname, url.port, type=socket.SOCK_DGRAM
            )[0]
        except UnicodeError as error:  # of a name with an empty part, or one that is too long
            raise OSError(f"{self.address} is no address") from error
        with socket.socket(family, kind, protocol) as udp:
            udp.settimeout(TIMEOUT_SECONDS)
            udp.connect(address)
            for message in packed:
                udp.send(message)


def messages(lines: Iterable[str]) -> Iterator[bytes]:
    """Join lines to messages of at most `MESSAGE_BYTES`."""
    joined = b""
    for line in map(str.encode, lines):
        if joined and len(joined) + 1 + len(line) > MESSAGE_BYTES:
            yield joined
            joined = b""
        joined = joined + b"\n" + line if joined else line
    if joined:
        yield joined


def _counters(families: Iterable[Family]) -> Iterator[tuple[str, float]]:
    for family in families:
        if family.type in {"counter", "histogram"}:
            yield from (
                (_name(one), one.value) for one in family.samples if one.name.endswith(COUNTED)
            )


def _gauges(families: Iterable[Family]) -> Iterator[str]:
    for family in families:
        if family.type == "gauge":
            yield from (
                f"{_name(one)}:{_number(one.value)}|g"
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
