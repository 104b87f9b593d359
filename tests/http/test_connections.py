"""Many connections, slow ones and no descriptors: new clients are served, answers go on, and the
log stays readable.
"""

import errno
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Self

import attrs
import pytest
import structlog.testing
import trio
import trio.testing

from semantic_trio.adapters.http.sockets import server
from semantic_trio.adapters.http.sockets.connections import (
    LOG_SECONDS,
    MOST_CONNECTIONS,
    RETRY_SECONDS,
    Connections,
    most_connections,
)
from semantic_trio.testing import FakeRunner
from tests.http.serving import anthropic_body, listening, served
from tests.http.test_containment import PROBE, is_alive, request_bytes

FEW = 3


@pytest.fixture
def few_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of three connections."""
    monkeypatch.setattr(server, "most_connections", lambda: FEW)


async def connected(port: int, sent: bytes) -> trio.SocketStream:
    """A client that has sent something."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(sent)
    return stream


async def until_closed(stream: trio.SocketStream) -> bytes:
    """All that the server still sends before it closes."""
    received = b""
    with trio.fail_after(30):
        try:
            async for chunk in stream:
                received += chunk
        except trio.BrokenResourceError:
            pass
    return received


UNFINISHED = {
    "nothing": b"",
    "a part of a head": b"GET /health/li",
    "a part of a body": (
        b"POST /v1/messages HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"
    ),
    "a part of a body that no route wants": (
        b"GET /health/live HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1000\r\n\r\n{"
    ),
}


@pytest.mark.usefixtures("few_connections")
@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
async def test_clients_that_send_no_whole_request_keep_no_other_out(sent: bytes) -> None:
    async with listening(served(FakeRunner())) as port:
        slow = [await connected(port, sent) for _ in range(3 * FEW)]

        assert await is_alive(port)
        await until_closed(slow[0])
        for stream in slow:
            await trio.aclose_forcefully(stream)


@pytest.mark.usefixtures("few_connections")
async def test_an_answer_under_way_is_not_dropped_for_a_new_client() -> None:
    async with listening(served(FakeRunner(seconds_per_step=0.005))) as port:
        answered = await connected(
            port,
            request_bytes(
                "/v1/messages",
                anthropic_body(stream=True, max_tokens=100),
                headers="connection: close\r\n",
            ),
        )
        begun = await answered.receive_some()
        slow = [await connected(port, b"GET /hea") for _ in range(3 * FEW)]
        assert await is_alive(port)

        assert b"event: message_stop" in begun + await until_closed(answered)
        for stream in (answered, *slow):
            await trio.aclose_forcefully(stream)


@pytest.mark.usefixtures("few_connections")
async def test_a_limit_that_is_reached_is_one_log_line() -> None:
    with structlog.testing.capture_logs() as lines:
        async with listening(served(FakeRunner())) as port:
            idle = [await connected(port, b"") for _ in range(5 * FEW)]
            assert await is_alive(port)
            for stream in idle:
                await trio.aclose_forcefully(stream)

    [line] = [line for line in lines if line["log_level"] == "warning"]
    assert (line["event"].partition(":")[0], line["limit"]) == (
        "connections are at their limit",
        FEW,
    )


@pytest.mark.parametrize("first", [b"", PROBE], ids=["the first request", "a later request"])
async def test_a_head_that_does_not_come_to_its_end_is_not_waited_for(
    first: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte by byte, each within the keep-alive time."""
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    async with listening(served(FakeRunner())) as port:
        stream = await connected(port, first)
        if first:
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trickle, stream)
            await until_closed(stream)
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


async def trickle(stream: trio.SocketStream) -> None:
    """Headers without an end."""
    try:
        await stream.send_all(b"GET /health/live HTTP/1.1\r\nx: ")
        while True:
            await stream.send_all(b"x")
            await trio.sleep(0.01)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass


@attrs.define(eq=False)
class Listener:
    """A listener whose kernel has no descriptors for a while."""

    errors: list[int]
    streams: int = 1
    closed: bool = False

    async def accept(self) -> object:
        """See `trio.abc.Listener`."""
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise OSError(self.errors.pop(), "no more of it")
        if not self.streams:
            await trio.sleep_forever()
        self.streams -= 1
        return object()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True


@asynccontextmanager
async def accepting(listener: Listener, limit: int = FEW) -> AsyncIterator[list[float]]:
    """The times at which connections came."""
    times: list[float] = []

    async def serve(_: object) -> None:
        times.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(Connections(limit).accept, listener, serve, nursery)  # type: ignore[arg-type]
        yield times
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS])
async def test_a_lack_of_descriptors_is_waited_for_and_logged_once_a_minute(
    number: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Trio's own loop writes a traceback ten times a second."""
    tries = int(1.5 * LOG_SECONDS / RETRY_SECONDS)
    with structlog.testing.capture_logs() as lines:
        async with accepting(Listener([number] * tries)) as times:
            await trio.sleep(2 * LOG_SECONDS)

    assert times == [pytest.approx(tries * RETRY_SECONDS)]
    assert len(lines) == 2
    assert "ulimit -n" in lines[0]["event"]


async def test_any_other_error_of_accept_ends_the_server(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listener = Listener([errno.EBADF])
    with pytest.RaisesGroup(OSError):
        async with accepting(listener):
            await trio.sleep_forever()
    assert listener.closed


LIMITS: dict[str, tuple[int, Callable[[int], bool]]] = {
    "a Mac's default": (256, lambda most: most == 128),
    "what mlx-lm sets": (2048, lambda most: most == MOST_CONNECTIONS),
    "many": (1_000_000, lambda most: most == MOST_CONNECTIONS),
    "no limit": (resource.RLIM_INFINITY, lambda most: most == MOST_CONNECTIONS),
    "almost none": (1, lambda most: most == 1),
}


@pytest.mark.parametrize("name", LIMITS)
def test_half_of_the_descriptors_are_left_for_files(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    soft, fits = LIMITS[name]
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, resource.RLIM_INFINITY))

    assert fits(most_connections())
