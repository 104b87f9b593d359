"""Hypercorn 0.18.0 held in check: what ends or blocks a plain `hypercorn.trio.serve` must not end
or block ours.

Each killer here is a reproduction; when an upgrade makes them harmless by itself, `ContainedServer`
can go.
"""

import json
import random
import socket

import pytest
import structlog.testing
import trio

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.adapters.http.sockets.binding import bind
from semantic_trio.testing import ByteCodec, ByteDecoder, FakeRunner
from tests.http.serving import Served, anthropic_body, listening, openai_body, served
from tests.search import examples

KILLERS = {
    "websocket upgrade with a trailing byte": (
        b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: "
        b"websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\nx"
    ),
    "websocket of the dashboard with a trailing byte": (
        b"GET /dashboard/feed HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: "
        b"websocket\r\nsec-websocket-version: 13\r\n"
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: "
        b"semantic-trio.frames\r\n\r\nx"
    ),
    "h2c upgrade with settings that cannot be decoded": (
        b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade, http2-settings\r\nupgrade: "
        b"h2c\r\nhttp2-settings: AAAA\r\n\r\n"
    ),
    "http/2 that turns to noise": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\xff" * 64,
}
MUTANTS = examples(2000, 4)
AT_ONCE = 20
# Seconds in which a busy machine does what takes the keep-alive time or the grace (60 s and more),
# or for ever, without the containment.
PROMPT_SECONDS = 30


def request_bytes(path: str, body: object, *, headers: str = "") -> bytes:
    """One POST as it goes over the wire."""
    encoded = json.dumps(body).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: "
        f"application/json\r\ncontent-length: {len(encoded)}\r\n{headers}\r\n"
    )
    return head.encode() + encoded


async def exchange(port: int, data: bytes, *, seconds: float = PROMPT_SECONDS) -> bytes:
    """Send bytes and read until the server closes, or for a while."""
    received = b""
    with trio.move_on_after(seconds):
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            try:
                await stream.send_all(data)
                async for piece in stream:
                    received += piece
            except trio.BrokenResourceError:
                pass
    return received


async def is_alive(port: int) -> bool:
    """Whether the server answers a probe."""
    probe = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
    return (await exchange(port, probe)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("killer", KILLERS)
async def test_one_malformed_connection_ends_itself_alone(killer: str) -> None:
    async with listening(served(FakeRunner())) as port:
        await exchange(port, KILLERS[killer], seconds=0.5)
        assert await is_alive(port)


async def test_a_contained_failure_is_one_line() -> None:
    with structlog.testing.capture_logs() as lines:
        async with listening(served(FakeRunner())) as port:
            await exchange(port, KILLERS["h2c upgrade with settings that cannot be decoded"])

    assert [line["event"] for line in lines].count("connection failed") == 1


async def test_mutated_connections_leave_the_server_alive() -> None:
    """Every fifth is cut short as well; seeded, so that a failure repeats."""
    dice = random.Random(2000)
    originals = [
        *KILLERS.values(),
        request_bytes("/v1/messages", anthropic_body(stream=True)),
        request_bytes("/v1/chat/completions", openai_body()),
    ]
    limiter = trio.CapacityLimiter(AT_ONCE)
    served_app = served(FakeRunner())

    async def attack(port: int, data: bytes) -> None:
        async with limiter:
            await exchange(port, data, seconds=0.05)

    async with listening(served_app) as port:
        async with trio.open_nursery() as nursery:
            for _ in range(MUTANTS):
                nursery.start_soon(attack, port, mutated(dice.choice(originals), dice))
        assert await is_alive(port)
        answer = await exchange(
            port, request_bytes("/v1/messages", anthropic_body(), headers="connection: close\r\n")
        )
        assert answer.startswith(b"HTTP/1.1 200")
    assert served_app.engine.open_generations == 0


def mutated(data: bytes, dice: random.Random) -> bytes:
    """A few bytes changed, doubled or lost."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 8)):
        at = dice.randrange(len(changed))
        match dice.randrange(3):
            case 0:
                changed[at] = dice.randrange(256)
            case 1:
                changed[at:at] = changed[at : at + dice.randint(1, 20)]
            case _:
                del changed[at : at + dice.randint(1, 20)]
        changed = changed or bytearray(b"\0")
    return bytes(changed[: dice.randrange(len(changed)) + 1] if dice.random() < 0.2 else changed)


class WordyDecoder(ByteDecoder):
    """Makes much of every token, so that buffers are soon full."""

    def push(self, token: int) -> str:
        """See `TextDecoder.push`."""
        return super().push(token) * 50_000


class WordyCodec(ByteCodec):
    """Says much."""

    def decoder(self) -> WordyDecoder:
        """See `TextCodec.decoder`."""
        return WordyDecoder()


def wordy(seconds_per_step: float) -> Served:
    """An application whose streams fill any buffer."""
    return served(
        FakeRunner(seconds_per_step=seconds_per_step), context_length=100_000, codec=WordyCodec()
    )


async def stuck_reader(port: int) -> trio.SocketStream:
    """A client that asks for a long stream and never reads: the smallest buffers, so that the
    server's writes soon block.
    """
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    await sock.connect(("127.0.0.1", port))
    stream = trio.SocketStream(sock)
    await stream.send_all(
        request_bytes("/v1/messages", anthropic_body(max_tokens=100_000, stream=True))
    )
    return stream


async def test_a_stuck_reader_does_not_block_shutdown() -> None:
    """With hypercorn's own server only SIGKILL ended this."""
    served_app = wordy(0.001)
    async with listening(served_app, write_timeout_seconds=2, graceful_seconds=0.3) as port:
        stream = await stuck_reader(port)
        with trio.fail_after(PROMPT_SECONDS):
            while not served_app.engine.open_generations:
                await trio.sleep(0.01)
        await trio.sleep(1)  # the buffers fill
        began = trio.current_time()
    assert trio.current_time() - began < PROMPT_SECONDS
    assert served_app.engine.open_generations == 0
    await trio.aclose_forcefully(stream)


async def test_a_stuck_reader_is_dropped_and_delays_nobody() -> None:
    served_app = wordy(0.001)
    async with listening(served_app, write_timeout_seconds=0.5) as port:
        stream = await stuck_reader(port)
        began = trio.current_time()
        for _ in range(5):
            answer = await exchange(
                port,
                request_bytes("/v1/messages", anthropic_body(), headers="connection: close\r\n"),
            )
            assert answer.startswith(b"HTTP/1.1 200")
        assert trio.current_time() - began < PROMPT_SECONDS
        with trio.fail_after(PROMPT_SECONDS):
            while served_app.engine.open_generations:
                await trio.sleep(0.05)
    await trio.aclose_forcefully(stream)


async def test_a_connection_that_asked_for_it_is_closed() -> None:
    """Quart-trio cancels the task that sends the last message, in the middle of it: hypercorn then
    forgot to close (see `hold_last`).
    """
    async with listening(served(FakeRunner())) as port:
        began = trio.current_time()
        assert await is_alive(port)
        assert trio.current_time() - began < PROMPT_SECONDS


PROBE = b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n"


SENT = {
    "nothing": b"",
    "part of a request": b"GET /hea",
    "one request": PROBE,
    "three requests": PROBE * 3,
    "a stray byte": PROBE + b"x",
}


@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
async def test_a_connection_is_closed_when_its_client_closes(sent: bytes) -> None:
    """Hypercorn's own server keeps the socket in CLOSE-WAIT for the 75 s of keep-alive: clients
    that connect for each request used them all up.
    """
    async with listening(served(FakeRunner())) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(sent)
        for _ in range(sent.count(PROBE)):
            await stream.receive_some()
        await stream.send_eof()
        with trio.fail_after(PROMPT_SECONDS):
            while await stream.receive_some():
                pass
        await stream.aclose()


async def test_shutdown_closes_idle_connections_and_refuses_new_ones() -> None:
    async with listening(served(FakeRunner()), graceful_seconds=60) as port:
        idle = await trio.open_tcp_stream("127.0.0.1", port)
        await idle.send_all(b"GET /health/live HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert (await idle.receive_some()).startswith(b"HTTP/1.1 200")
        began = trio.current_time()
    assert trio.current_time() - began < PROMPT_SECONDS
    with pytest.raises(OSError, match="connect"):
        await trio.open_tcp_stream("127.0.0.1", port)
    await idle.aclose()


async def test_a_failed_stream_has_no_closing_chunk() -> None:
    def fails(plan: object) -> None:
        if runner.steps > 3:
            raise RuntimeError("on fire")

    runner = CountingRunner(before_step=fails)
    async with listening(served(runner)) as port:
        answer = await exchange(
            port, request_bytes("/v1/messages", anthropic_body(stream=True, max_tokens=50))
        )

    assert b"event: error" in answer
    assert not answer.endswith(b"0\r\n\r\n")


class CountingRunner(FakeRunner):
    """A fake that knows how many steps it was asked for."""

    @property
    def steps(self) -> int:
        """Steps so far."""
        return len(self.plans)


async def test_a_port_in_use_is_a_plain_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        await bind("127.0.0.1", taken.getsockname()[1])


async def test_a_name_with_two_addresses_listens_on_one_port() -> None:
    sockets = await bind("localhost", 0)
    assert len({sock.getsockname()[1] for sock in sockets}) == 1
    for sock in sockets:
        sock.close()


@pytest.mark.parametrize("is_chunked", [False, True])
async def test_a_body_beyond_the_limit_gets_its_413_over_a_socket(is_chunked: bool) -> None:
    """The client reads the answer although it goes on sending: closing on unread bytes would reset
    the connection.
    """
    body = b"x" * 3_000_000
    head = b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\n"
    if is_chunked:
        piece = b"2710\r\n" + b"x" * 10_000 + b"\r\n"
        data = head + b"transfer-encoding: chunked\r\n\r\n" + piece * 300 + b"0\r\n\r\n"
    else:
        data = head + f"content-length: {len(body)}\r\n\r\n".encode() + body
    async with listening(served(FakeRunner(), HttpSettings(max_body_bytes=10_000))) as port:
        answer = await exchange(port, data)
        assert await is_alive(port)
    assert answer.startswith(b"HTTP/1.1 413")
    assert b"request_too_large" in answer


async def test_an_endless_body_is_refused_and_dropped() -> None:
    async def pour(stream: trio.SocketStream) -> None:
        await stream.send_all(
            b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        while True:
            await stream.send_all(b"1\r\nx\r\n" * 5000)

    async with listening(
        served(FakeRunner(), HttpSettings(max_body_bytes=10_000)), graceful_seconds=60
    ) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        began = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await pour(stream)
        assert trio.current_time() - began < PROMPT_SECONDS
        began = trio.current_time()
        await trio.aclose_forcefully(stream)
    assert trio.current_time() - began < PROMPT_SECONDS  # nothing of the connection is left
