"""Stands between a client and the server, and measures what each prompt had in common with what was
asked before, and what of that was used again.

Passes everything on as it comes, ends of connections included. Keeps requests in memory only: they
hold what clients are made of.
"""

import contextlib
import functools
import http.client
import http.server
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence

import attrs
import httpx

from tests.e2e.wires import WIRES, Bill, Json, Said, Wire

# The part of what a prompt has in common with the one before it that must not be computed again.
SHARE = 0.99
# Tokens around the end of a turn: its last one is drawn and not read, and a client that says
# something else instead of an answer needs other words.
UNREAD = 8
HOP_BY_HOP = {
    "connection",
    "host",
    "transfer-encoding",
    "content-length",
    "keep-alive",
    "accept-encoding",
}


@attrs.define(eq=False)
class Exchange:
    """One request and its answer."""

    path: str
    asked: Json
    began: float
    status: int = 0
    kind: str = ""  # content type
    usage: Json = attrs.field(factory=dict)
    cache: Json = attrs.field(factory=dict)  # `semantic_cache`
    answer: bytes = b""
    is_whole: bool = False

    def read(self) -> None:
        """Take the figures out of the answer, whole or not."""
        if self.wire is None:
            return
        if self.kind.startswith("text/event-stream"):
            for event in _events(self.answer):
                self.usage |= self.wire.usage(event)
                self.cache |= event.get("semantic_cache") or {}
        elif self.kind.startswith("application/json") and self.answer:
            self.usage = self.wire.usage(json.loads(self.answer))

    @property
    def wire(self) -> Wire | None:
        """The protocol, where a model is asked in one."""
        return WIRES.get(self.path.partition("?")[0])

    @property
    def bill(self) -> Bill | None:
        """The tokens, where a model was asked, has begun to answer and told them."""
        return self.wire.bill(self.usage) if self.wire is not None and self.status == 200 else None

    @property
    def is_turn(self) -> bool:
        """Whether it counts."""
        return self.bill is not None


@attrs.define(eq=False)
class _Asked:
    """A turn, taken apart."""

    exchange: Exchange
    wire: Wire
    bill: Bill
    head: Json = attrs.field(init=False)
    blocks: list[Said] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.head, self.blocks = (
            self.wire.head(self.exchange.asked),
            self.wire.blocks(self.exchange.asked),
        )

    def is_after(self, other: "_Asked") -> bool:
        """Whether what `other` asked may have been remembered."""
        return (
            other.exchange.began < self.exchange.began
            and other.wire is self.wire
            and other.head == self.head
        )

    def answers(self, other: "_Asked") -> bool:
        """Whether what was said to `other` follows there."""
        rest = self.blocks[len(other.blocks) :]
        return other.exchange.is_whole and bool(rest) and rest[0][1] == "assistant"


@attrs.frozen
class Turn:
    """One row of the table: a turn, and how much of it was known."""

    client: str
    number: int
    # first, append: everything asked before stands before what is new, changed: something of it was
    kind: str
    prompt: int  # tokens
    common: int  # tokens of the prompt before it that stand at this one's beginning
    said: int  # tokens that were answered to the prompt before it, where they follow there
    reused: int
    cause: str
    lost: int

    @property
    def share(self) -> float:
        """The part of what is common that was not computed again."""
        return min(1.0, self.reused / self.common) if self.common else 1.0

    @property
    def unread(self) -> int:
        """Tokens that were read or said before and had to be read again."""
        return max(0, self.common + self.said - self.reused)


@attrs.define(eq=False)
class Meter:
    """A proxy on a free port, and what passed through it."""

    server: str  # URL
    name: str
    exchanges: list[Exchange] = attrs.field(init=False, factory=list)
    # cleared: of each answer no more than its first event is passed on
    passing: threading.Event = attrs.field(init=False, factory=threading.Event)
    _proxy: http.server.ThreadingHTTPServer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._proxy = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"meter": self})
        )
        self._proxy.daemon_threads = True
        self.passing.set()
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._proxy.server_port}"

    def close(self) -> None:
        """Listen no more."""
        self.passing.set()
        self._proxy.shutdown()
        self._proxy.server_close()

    @property
    def turns(self) -> list[Turn]:
        """Every finished turn, in the order in which they were asked."""
        found = sorted(self.exchanges, key=lambda exchange: exchange.began)
        done = [
            _Asked(exchange, exchange.wire, exchange.bill)
            for exchange in found
            if exchange.wire and exchange.bill
        ]
        return [self._turn(number, asked, done) for number, asked in enumerate(done, 1)]

    def _turn(self, number: int, asked: _Asked, done: Sequence[_Asked]) -> Turn:
        before = [(_common(other, asked), other) for other in done if asked.is_after(other)]
        length, other = max(
            before, key=lambda found: (found[0], found[1].exchange.began), default=(0, None)
        )
        cause, lost = (
            asked.exchange.cache.get("cause") or "",
            int(asked.exchange.cache.get("lost") or 0),
        )
        row = functools.partial(
            Turn,
            self.name,
            number,
            prompt=asked.bill.prompt,
            reused=asked.bill.reused,
            cause=cause,
            lost=lost,
        )
        if other is None or not length:
            return row("first", common=0, said=0)
        if length == len(other.blocks):
            return row(
                "append",
                common=other.bill.prompt,
                said=other.bill.said if asked.answers(other) else 0,
            )
        return row(
            "changed",
            common=asked.wire.count(self.server, asked.exchange.asked, asked.blocks[:length]),
            said=0,
        )

    def misses(self) -> dict[str, int]:
        """What the server has counted, by cause."""
        text = httpx.get(f"{self.server}/metrics").text
        return {
            cause: int(float(count))
            for cause, count in re.findall(
                r'^semantic_cache_miss_total\{cause="(\w+)"\} (\S+)', text, re.MULTILINE
            )
        }


def assert_nothing_read_twice(meter: Meter, *, at_least: int) -> list[Turn]:
    """Every turn that goes on with one before finds it remembered, and so what was answered."""
    later = [turn for turn in meter.turns if turn.common]
    assert len(later) >= at_least, meter.turns
    assert [turn for turn in later if turn.share < SHARE or turn.unread > UNREAD] == []
    return later


def _common(one: _Asked, other: _Asked) -> int:
    """Blocks that two requests begin with alike."""
    pairs = zip(one.blocks, other.blocks, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    meter: Meter

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        exchange = Exchange(self.path, json.loads(body) if body else {}, time.monotonic())
        self.meter.exchanges.append(exchange)
        connection = http.client.HTTPConnection(
            self.meter.server.removeprefix("http://"), timeout=600
        )
        try:
            headers = {
                name: value
                for name, value in self.headers.items()
                if name.lower() not in HOP_BY_HOP
            }
            connection.request(self.command, self.path, body, headers)
            self._pass_on(exchange, connection.getresponse())
        except (OSError, http.client.HTTPException):
            self.close_connection = True  # whoever left, the other one is to see it
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
        finally:
            connection.close()
            exchange.read()

    def do_POST(self) -> None:
        self.do_GET()

    def do_HEAD(self) -> None:
        self.do_GET()

    def _pass_on(self, exchange: Exchange, response: http.client.HTTPResponse) -> None:
        exchange.status, exchange.kind = response.status, response.headers.get("content-type") or ""
        self.send_response_only(response.status)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        with response:
            while piece := response.read1(65_536):
                exchange.answer += piece
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                self.meter.passing.wait()
        exchange.is_whole = True
        exchange.read()  # before the client knows of the end: it may ask for the figures at once
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: object) -> None:
        pass


def _events(answer: bytes) -> Iterator[Json]:
    for line in answer[: answer.rfind(b"\n")].splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))
