"""HTTP/2 without TLS, as clients use it that know of it beforehand: several streams in one
connection, each of which ends by itself.
"""

import json
from collections.abc import Callable

import attrs
import h2.config
import h2.connection
import h2.events
import h2.settings
import pytest
import trio

from semantic_trio.testing import FakeRunner
from tests.http.serving import listening, openai_body, served

# Seconds in which a busy machine does what takes the keep-alive time or the grace (60 s and more),
# or for ever, where it is wrong.
PROMPT_SECONDS = 30
CHAT = "/v1/chat/completions"
WINDOW = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}


@attrs.define(eq=False)
class Client:
    """One connection, and what came back on its streams."""

    _stream: trio.SocketStream
    _connection: h2.connection.H2Connection
    received: dict[int, bytes] = attrs.field(factory=dict)
    ended: set[int] = attrs.field(factory=set)
    is_closed: bool = False  # by the server

    @classmethod
    async def connect(
        cls, port: int, settings: dict[h2.settings.SettingCodes, int] | None = None
    ) -> "Client":
        """Begin a connection."""
        connection = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
        connection.local_settings = h2.settings.Settings(
            client=True, initial_values=dict(settings or {})
        )
        client = cls(await trio.open_tcp_stream("127.0.0.1", port), connection)
        connection.initiate_connection()
        await client._flush()
        return client

    async def ask(self, path: str, body: object) -> int:
        """Send a request; the number of its stream."""
        number = self._connection.get_next_available_stream_id()
        headers = [
            (":method", "POST"),
            (":path", path),
            (":scheme", "http"),
            (":authority", "localhost"),
            ("content-type", "application/json"),
        ]
        self._connection.send_headers(number, headers)
        self._connection.send_data(number, json.dumps(body).encode(), end_stream=True)
        self.received[number] = b""
        await self._flush()
        return number

    async def reset(self, number: int) -> None:
        """Give up one request."""
        self._connection.reset_stream(number)
        await self._flush()

    async def read_until(self, is_enough: Callable[[], bool]) -> None:
        """Read until something holds. Raises `trio.TooSlowError`."""
        with trio.fail_after(PROMPT_SECONDS):
            while not (is_enough() or self.is_closed):
                await self._read()

    async def close(self) -> None:
        """Leave."""
        await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        try:
            data = bytes(await self._stream.receive_some())
        except trio.BrokenResourceError:
            data = b""
        self.is_closed = not data
        for event in self._connection.receive_data(data):
            if isinstance(event, h2.events.DataReceived):
                self.received[event.stream_id] += event.data
                self._connection.acknowledge_received_data(
                    event.flow_controlled_length, event.stream_id
                )
            elif isinstance(event, h2.events.StreamEnded):
                self.ended.add(event.stream_id)
        if not self.is_closed:
            await self._flush()

    async def _flush(self) -> None:
        await self._stream.send_all(self._connection.data_to_send())


async def holds(condition: Callable[[], bool]) -> None:
    """Wait until something holds. Raises `trio.TooSlowError`."""
    with trio.fail_after(PROMPT_SECONDS):
        while not condition():
            await trio.sleep(0.01)


@pytest.mark.timeout(120)
async def test_streams_of_one_connection_are_answered_side_by_side() -> None:
    async with listening(served(FakeRunner())) as port:
        client = await Client.connect(port)
        whole = await client.ask(CHAT, openai_body(max_tokens=5))
        streamed = await client.ask(CHAT, openai_body(max_tokens=5, stream=True))
        await client.read_until(lambda: client.ended == {whole, streamed})
        await client.close()

    assert json.loads(client.received[whole])["usage"]["completion_tokens"] == 5
    assert client.received[streamed].endswith(b"data: [DONE]\n\n")


@pytest.mark.timeout(120)
async def test_a_stream_that_is_reset_ends_its_generation_alone() -> None:
    server = served(FakeRunner(seconds_per_step=0.005), context_length=1_000_000)
    async with listening(server) as port:
        client = await Client.connect(port)
        endless = await client.ask(CHAT, openai_body(max_tokens=900_000, stream=True))
        other = await client.ask(CHAT, openai_body(max_tokens=20, stream=True))
        await client.read_until(
            lambda: b"content" in client.received[endless] and b"content" in client.received[other]
        )
        await client.reset(endless)
        await client.read_until(lambda: other in client.ended)
        await holds(lambda: server.engine.open_generations == 0)
        await client.close()

    assert client.received[other].endswith(b"data: [DONE]\n\n")


@pytest.mark.timeout(120)
async def test_a_client_that_leaves_ends_all_its_generations() -> None:
    server = served(FakeRunner(seconds_per_step=0.005), context_length=1_000_000)
    async with listening(server) as port:
        client = await Client.connect(port)
        for _ in range(2):
            await client.ask(CHAT, openai_body(max_tokens=900_000, stream=True))
        await client.read_until(
            lambda: all(b"content" in received for received in client.received.values())
        )
        await client.close()
        await holds(lambda: server.engine.open_generations == 0)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_takes_no_answer_is_dropped(stream: bool) -> None:
    """It lets no byte of a stream's body be sent, with its connection open: hypercorn waits for
    ever.
    """
    server = served(FakeRunner(), context_length=1_000_000)
    async with listening(server, write_timeout_seconds=0.5) as port:
        client = await Client.connect(port, WINDOW)
        await client.ask(CHAT, openai_body(max_tokens=5, stream=stream))
        await client.read_until(lambda: False)
        await holds(lambda: server.engine.open_generations == 0)
        await client.close()

    assert client.is_closed


@pytest.mark.timeout(120)
async def test_at_the_end_of_the_server_an_answer_ends_and_its_connection_closes() -> None:
    async with listening(
        served(FakeRunner(seconds_per_step=0.01)), graceful_seconds=PROMPT_SECONDS
    ) as port:
        client = await Client.connect(port)
        number = await client.ask(CHAT, openai_body(max_tokens=30, stream=True))
        await client.read_until(lambda: b"content" in client.received[number])
    await client.read_until(lambda: False)
    await client.close()

    assert client.received[number].endswith(b"data: [DONE]\n\n")
    assert client.is_closed
