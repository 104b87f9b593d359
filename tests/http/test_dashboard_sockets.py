"""The feed of the dashboard over sockets: contained like everything else, and closed when the
server ends.
"""

import contextlib

import pytest
import trio
from wsproto.events import AcceptConnection, CloseConnection, RejectConnection, TextMessage
from wsproto.frame_protocol import CloseReason

from semantic_trio.adapters.http.dashboard.feed import POLICY_VIOLATION, WRONG_KEY
from semantic_trio.adapters.http.serving.app_state import AppState, HttpSettings
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.http.sockets.server import GOING_AWAY, MAX_WEBSOCKET_BYTES
from semantic_trio.testing import FakeRunner
from tests.http.serving import listening, served
from tests.http.test_containment import PROMPT_SECONDS, is_alive
from tests.http.viewers import SocketViewer


async def until_closed(viewer: SocketViewer) -> int:
    """The code that the server closes a WebSocket with; the connection is closed then."""
    async with viewer:
        with trio.fail_after(PROMPT_SECONDS):
            closed = (await viewer.until(CloseConnection))[-1]
            assert isinstance(closed, CloseConnection)
            await until_end(viewer.stream)
    return int(closed.code)


async def until_end(stream: trio.SocketStream) -> None:
    """Read until the connection is closed, or reset with bytes that nobody has read."""
    with trio.fail_after(PROMPT_SECONDS), contextlib.suppress(trio.BrokenResourceError):
        while await stream.receive_some():
            pass


async def looking_on(port: int, key: str | None = None, origin: str | None = None) -> SocketViewer:
    """A viewer that has been sent a frame."""
    viewer = await SocketViewer.connect(port, key=key, origin=origin)
    with trio.fail_after(PROMPT_SECONDS):
        events = await viewer.until(TextMessage)
    assert [type(event) for event in events] == [AcceptConnection, TextMessage]
    return viewer


async def leave(viewer: SocketViewer) -> None:
    """Close a WebSocket as browsers do, and wait for the server's part in it."""
    async with viewer:
        await viewer.send(CloseConnection(code=CloseReason.NORMAL_CLOSURE))
        with trio.fail_after(PROMPT_SECONDS):
            await viewer.until(CloseConnection)
        await until_end(viewer.stream)


async def test_a_browser_is_sent_frames_and_leaves_when_it_likes() -> None:
    async with listening(served(FakeRunner(), HttpSettings(api_key="k"))) as port:
        await leave(await looking_on(port, "k", f"http://127.0.0.1:{port}"))


async def test_the_end_of_the_server_closes_every_websocket_at_once() -> None:
    """Within the time that the last answers get, which is an hour here."""
    with trio.fail_after(PROMPT_SECONDS):
        async with listening(served(FakeRunner()), graceful_seconds=3600) as port:
            viewers = [await looking_on(port) for _ in range(3)]
        assert [await until_closed(viewer) for viewer in viewers] == [GOING_AWAY] * 3


async def test_a_wrong_key_is_told_and_a_foreign_page_is_refused() -> None:
    async with listening(served(FakeRunner(), HttpSettings(api_key="k"))) as port:
        assert await until_closed(await SocketViewer.connect(port, key="wrong")) == WRONG_KEY
        async with await SocketViewer.connect(
            port, key="k", origin="https://evil.example"
        ) as foreign:
            with trio.fail_after(PROMPT_SECONDS):
                refused = (await foreign.until(RejectConnection))[0]
            await until_end(foreign.stream)
    assert isinstance(refused, RejectConnection)
    assert refused.status_code == 403


async def test_a_viewer_that_speaks_is_sent_away() -> None:
    async with listening(served(FakeRunner())) as port:
        viewer = await looking_on(port)
        await viewer.send(TextMessage(data="hello"))
        assert await until_closed(viewer) == POLICY_VIOLATION
        assert await is_alive(port)


NOISE = {
    "noise": b"\xff" * 100,
    "a frame that is not masked": b"\x81\x05hello",
    "a fragment without a beginning": b"\x80\x80\0\0\0\0",
    "a frame of 2**63 bytes": b"\x82\xff\x7f" + b"\xff" * 7 + b"\0" * 4,
    "the reserved bits": b"\xf1\x80\0\0\0\0",
    "a ping that is too long": b"\x89\xfe\x01\x00\0\0\0\0" + b"x" * 256,
    "a close without a code": b"\x88\x81\0\0\0\0\x03",
    "a text that is not UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
    "nothing more": b"",
}


@pytest.mark.parametrize("noise", NOISE.values(), ids=NOISE)
async def test_a_malformed_websocket_ends_itself_alone(noise: bytes) -> None:
    async with listening(served(FakeRunner())) as port:
        other = await looking_on(port)
        async with await looking_on(port) as broken:
            await broken.stream.send_all(noise)
            await broken.stream.send_eof()
            await until_end(broken.stream)
        assert await is_alive(port)
        await leave(other)


async def test_a_viewer_that_never_ends_its_message_is_dropped() -> None:
    """Hypercorn would collect fragments for ever."""
    async with listening(served(FakeRunner())) as port, await looking_on(port) as endless:
        await endless.stream.send_all(
            b"\x02\x80\0\0\0\0" + b"\x00\x80\0\0\0\0" * (MAX_WEBSOCKET_BYTES // 6)
        )
        await until_end(endless.stream)
        assert await is_alive(port)


REFUSED = {"no key": "", "a trailing byte": "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n"}


@pytest.mark.parametrize("header", REFUSED.values(), ids=REFUSED)
async def test_a_handshake_that_is_refused_ends_its_connection(header: str) -> None:
    """Hypercorn's own server answers that the connection closes, and leaves it open for ever."""
    head = (
        "GET /dashboard/feed HTTP/1.1\r\nhost: localhost\r\nconnection: upgrade\r\nupgrade: "
        f"websocket\r\nsec-websocket-version: 13\r\n{header}\r\n"
    )
    async with listening(served(FakeRunner())) as port:
        async with SocketViewer(await trio.open_tcp_stream("127.0.0.1", port)) as refused:
            await refused.stream.send_all(f"{head}{'x' if header else ''}".encode())
            await until_end(refused.stream)
        assert await is_alive(port)


async def test_a_frame_that_cannot_be_made_ends_its_websocket_alone() -> None:
    class Broken(AppState):
        @property
        def models(self) -> tuple[ServedModel, ...]:
            """Nothing."""
            raise RuntimeError("on fire")

    async with listening(served(FakeRunner(), kind=Broken)) as port:
        assert await until_closed(await SocketViewer.connect(port)) == CloseReason.INTERNAL_ERROR
        assert await is_alive(port)
