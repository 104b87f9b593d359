"""Stands between a client and the server, and measures what each prompt had in common with what was asked before, and what of that was used again.

Passes everything on as it comes, ends of connections included. Keeps requests in memory only: they hold what clients are made of.
"""

import contextlib
import http.client
import http.server
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import attrs
import httpx

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
BILLING_HEADER = "x-anthropic-billing-header:"
HOP_BY_HOP = {"connection", "host", "transfer-encoding", "content-length", "keep-alive", "accept-encoding"}
Json = dict[str, Any]


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
        if self.kind.startswith("text/event-stream"):
            for event in _events(self.answer):
                self.usage |= event.get("usage") or event.get("message", {}).get("usage") or {}
                self.cache |= event.get("semantic_cache") or {}
        elif self.kind.startswith("application/json") and self.answer:
            self.usage = json.loads(self.answer).get("usage") or {}

    @property
    def is_turn(self) -> bool:
        """Whether a model was asked, and has begun to answer."""
        return self.path.partition("?")[0] == MESSAGES and self.status == 200 and "output_tokens" in self.usage

    @property
    def prompt_tokens(self) -> int:
        """All of the prompt, read or remembered."""
        return self.reused + sum(self.usage.get(name) or 0 for name in ("input_tokens", "cache_creation_input_tokens"))

    @property
    def reused(self) -> int:
        """Tokens of the prompt that were remembered."""
        return int(self.usage.get("cache_read_input_tokens") or 0)

    @property
    def head(self) -> Json:
        """What stands before the messages."""
        return {
            "system": [block for block in _blocks(self.asked.get("system") or []) if not block["text"].startswith(BILLING_HEADER)],
            "tools": [_plain(tool) for tool in self.asked.get("tools") or [] if not tool.get("defer_loading")],
        }

    @property
    def blocks(self) -> list[tuple[int, str, Json]]:
        """Everything that is said, with the number of its message and its role, as far as it means something."""
        messages = enumerate(self.asked["messages"])
        return [(number, message["role"], block) for number, message in messages for block in _blocks(message["content"])]


def _plain(block: Json) -> Json:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _blocks(content: Any) -> list[Json]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else [_plain(block) for block in content]


@attrs.frozen
class Turn:
    """One row of the table: a turn, and how much of it was known."""

    client: str
    number: int
    kind: str  # first, append: everything asked before stands before what is new, changed: something of it was
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
    _proxy: http.server.ThreadingHTTPServer = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"meter": self}))
        self._proxy.daemon_threads = True
        threading.Thread(target=self._proxy.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"http://127.0.0.1:{self._proxy.server_port}"

    def close(self) -> None:
        """Listen no more."""
        self._proxy.shutdown()
        self._proxy.server_close()

    @property
    def turns(self) -> list[Turn]:
        """Every finished turn, in the order in which they were asked."""
        done = sorted((exchange for exchange in self.exchanges if exchange.is_turn), key=lambda exchange: exchange.began)
        return [self._turn(number, exchange, done) for number, exchange in enumerate(done, 1)]

    def _turn(self, number: int, exchange: Exchange, done: Sequence[Exchange]) -> Turn:
        before = [(_common(other, exchange), other) for other in done if other.began < exchange.began and other.head == exchange.head]
        length, other = max(before, key=lambda found: (found[0], found[1].began), default=(0, None))
        cause, lost = exchange.cache.get("cause") or "", int(exchange.cache.get("lost") or 0)
        if other is None or not length:
            return Turn(self.name, number, "first", exchange.prompt_tokens, 0, 0, exchange.reused, cause, lost)
        if length == len(other.blocks):
            is_gone_on = other.is_whole and exchange.blocks[length:] and exchange.blocks[length][1] == "assistant"
            said = int(other.usage["output_tokens"]) if is_gone_on else 0
            return Turn(self.name, number, "append", exchange.prompt_tokens, other.prompt_tokens, said, exchange.reused, cause, lost)
        common = self._count(exchange.asked | {"messages": _messages(exchange.blocks[:length])})
        return Turn(self.name, number, "changed", exchange.prompt_tokens, common, 0, exchange.reused, cause, lost)

    def misses(self) -> dict[str, int]:
        """What the server has counted, by cause."""
        text = httpx.get(f"{self.server}/metrics").text
        return {cause: int(float(count)) for cause, count in re.findall(r'^semantic_cache_miss_total\{cause="(\w+)"\} (\S+)', text, re.MULTILINE)}

    def _count(self, asked: Json) -> int:
        fields = {name: asked[name] for name in ("model", "system", "tools", "messages", "thinking") if name in asked}
        return int(httpx.post(f"{self.server}{COUNT}", json=fields, timeout=60).raise_for_status().json()["input_tokens"])


def _common(one: Exchange, other: Exchange) -> int:
    """Blocks that two requests begin with alike."""
    pairs = zip(one.blocks, other.blocks, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _messages(blocks: Sequence[tuple[int, str, Json]]) -> list[Json]:
    groups = itertools.groupby(blocks, key=lambda said: said[:2])
    return [{"role": role, "content": [block for _, _, block in group]} for (_, role), group in groups]


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection of a client."""

    protocol_version = "HTTP/1.1"
    meter: Meter

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        exchange = Exchange(self.path, json.loads(body) if body else {}, time.monotonic())
        self.meter.exchanges.append(exchange)
        connection = http.client.HTTPConnection(self.meter.server.removeprefix("http://"), timeout=600)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
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
        self.wfile.write(b"0\r\n\r\n")
        exchange.is_whole = True

    def log_message(self, *_: object) -> None:
        pass


def _events(answer: bytes) -> Iterator[Json]:
    for line in answer[: answer.rfind(b"\n")].splitlines():
        if line.startswith(b"data: {"):
            yield json.loads(line.removeprefix(b"data: "))
