"""A lean client: raw sockets, one thread, nothing parsed that is not needed for a figure."""

import json
import selectors
import socket
import time
from collections.abc import Callable, Sequence

import attrs


@attrs.define(eq=False)
class Stream:
    """Times of the pieces of a streamed answer, and the usage that the server reported."""

    body: dict[str, object]
    path: str = "/v1/chat/completions"
    started: float = 0.0
    # of each piece of text, seconds after `started`
    stamps: list[float] = attrs.field(factory=list)
    tokens: int = 0  # generated
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt; 0 also where the server does not tell
    ended: float = 0.0
    text: str = ""
    _buffer: bytes = b""

    def feed(self, data: bytes, now: float) -> None:
        """Take bytes as they come."""
        self._buffer += data
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if line.startswith(b"HTTP/1.") and line.split()[1] != b"200":
                raise RuntimeError(line.decode())
            if line.startswith(b"data: {"):
                self._take(json.loads(line[6:]), now)

    def _take(self, chunk: dict, now: float) -> None:  # type: ignore[type-arg]
        if "error" in chunk:
            raise RuntimeError(str(chunk["error"]))
        if chunk.get("usage"):
            usage = chunk["usage"]
            self.tokens, self.prompt_tokens = usage["completion_tokens"], usage["prompt_tokens"]
            self.cached_tokens = (usage.get("prompt_tokens_details") or {}).get(
                "cached_tokens"
            ) or 0
        for choice in chunk.get("choices", ()):
            piece = choice["delta"].get("content")
            if piece:
                self.stamps.append(now - self.started)
                self.text += piece

    @property
    def first(self) -> float:
        """Seconds to the first piece of text; to the end of an answer without any."""
        return self.stamps[0] if self.stamps else self.ended

    @property
    def longest_gap(self) -> float:
        """The longest silence between two pieces, in seconds."""
        return max(b - a for a, b in zip(self.stamps, self.stamps[1:], strict=False))


def chat(prompt: str, max_tokens: int, model: str = "default") -> Stream:
    """A streamed chat completion of one message, greedy."""
    return talk([{"role": "user", "content": prompt}], max_tokens, model)


def talk(messages: Sequence[dict[str, str]], max_tokens: int, model: str = "default") -> Stream:
    """A streamed chat completion of a conversation, greedy."""
    body = {
        "model": model,
        "messages": list(messages),
        "max_tokens": max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Stream(body)


def run(
    port: int,
    streams: Sequence[Stream],
    at: Callable[[float], Sequence[Stream]] | None = None,
    limit: float = 600,
) -> float:
    """Run streams at once, and those that `at(seconds since the start)` adds later.

    Returns the seconds until the last one ended.
    """
    selector = selectors.DefaultSelector()
    begun = time.perf_counter()
    pending = 0
    for stream in streams:
        _open(port, stream, selector)
        pending += 1
    while pending or at is not None:
        now = time.perf_counter()
        if now - begun > limit:
            raise TimeoutError("the benchmark's limit")
        more = at(now - begun) if at else ()
        if more:
            for stream in more:
                _open(port, stream, selector)
                pending += 1
            at = None
        for key, _ in selector.select(0.02):
            pending -= _read(key.fileobj, key.data, selector)  # type: ignore[arg-type]
    selector.close()
    return time.perf_counter() - begun


def _open(port: int, stream: Stream, selector: selectors.BaseSelector) -> None:
    sock = socket.create_connection(("127.0.0.1", port))
    body = json.dumps(stream.body).encode()
    head = (
        f"POST {stream.path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: "
        f"application/json\r\nContent-Length: {len(body)}\r\n"
    )
    stream.started = time.perf_counter()
    sock.sendall(head.encode() + b"Connection: close\r\n\r\n" + body)
    sock.setblocking(False)
    selector.register(sock, selectors.EVENT_READ, stream)


def _read(sock: socket.socket, stream: Stream, selector: selectors.BaseSelector) -> int:
    data = sock.recv(1 << 16)
    now = time.perf_counter()
    if data:
        stream.feed(data, now)
        if b"data: [DONE]" not in data:
            return 0
    stream.ended = now - stream.started
    selector.unregister(sock)
    sock.close()
    return 1


def get(port: int, path: str) -> tuple[int, bytes, float]:
    """Return status, body and seconds of a GET on a connection of its own."""
    begun = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=30) as sock:
        sock.sendall(
            f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode()
        )
        answer = b""
        while data := sock.recv(1 << 16):
            answer += data
    return (
        int(answer.split(b" ", 2)[1]),
        answer.partition(b"\r\n\r\n")[2],
        time.perf_counter() - begun,
    )
