"""Bodies of requests: read only where one is wanted, bounded all together, in an encoding that is
known, of a length that is certain.
"""

import gzip
import json
import zlib
from collections.abc import Callable

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.middleware.bodies import SLOWEST_BYTES_PER_SECOND, STALLED_SECONDS
from semantic_trio.adapters.http.middleware.lifecycle import LARGEST_BODIES
from semantic_trio.adapters.http.middleware.response_sender import LINGER_SECONDS
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.embedding import EmbeddingForm
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.http.serving import Call, anthropic_body, listening, openai_body, post, running, served
from tests.http.test_containment import exchange

LIMIT_BYTES = 10_000
KEY = "a key"


@attrs.define(eq=False)
class Sending(Call):
    """A request whose body the test sends itself, and which counts what of it was taken."""

    send: trio.MemorySendChannel[bytes] = attrs.field(init=False)
    taken: int = attrs.field(init=False, default=0)
    _incoming: trio.MemoryReceiveChannel[bytes] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.send, self._incoming = trio.open_memory_channel[bytes](0)

    async def _receive(self) -> dict[str, object]:
        try:
            chunk = await self._incoming.receive()
        except trio.EndOfChannel:
            return {"type": "http.disconnect"}
        self.taken += len(chunk)
        return {"type": "http.request", "body": chunk, "more_body": bool(chunk)}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/health/live"),
        ("GET", "/v1/models"),
        ("POST", "/v1/nothing"),
        ("DELETE", "/v1/agents/a"),
    ],
)
async def test_a_body_that_no_route_wants_is_not_kept(
    method: str, path: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Twice the largest body, discarded as it comes: read, it would be refused with 413."""
    call = Sending(served(FakeRunner(), HttpSettings(max_body_bytes=LIMIT_BYTES)).app, method, path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        for _ in range(20):
            await call.send.send(b"x" * (LIMIT_BYTES // 10))
        await call.send.send(b"")

    assert call.status in {200, 404, 405}
    assert call.is_complete
    assert call.taken == 2 * LIMIT_BYTES


async def test_an_answer_does_not_wait_for_a_body_that_no_route_wants(
    autojump_clock: trio.testing.MockClock,
) -> None:
    call = Sending(served(FakeRunner()).app, "GET", "/health/live")
    await call.run()  # nothing of the body ever comes

    assert (call.status, call.is_complete) == (200, True)
    assert trio.current_time() == pytest.approx(LINGER_SECONDS)
    assert call.chunks[0][0] == 0


async def test_no_body_is_kept_before_the_key_is_checked(
    autojump_clock: trio.testing.MockClock,
) -> None:
    call = Sending(
        served(FakeRunner(), HttpSettings(api_key=KEY, max_body_bytes=LIMIT_BYTES)).app,
        "POST",
        "/v1/messages",
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        for _ in range(20):
            await call.send.send(b"x" * (LIMIT_BYTES // 10))
        await call.send.send(b"")

    assert call.status == 401


@pytest.mark.parametrize(("path", "status"), [("/v1/messages", 529), ("/v1/chat/completions", 429)])
async def test_all_bodies_together_are_bounded(
    path: str, status: int, autojump_clock: trio.testing.MockClock
) -> None:
    app = served(FakeRunner(), HttpSettings(max_body_bytes=LIMIT_BYTES)).app
    held = [Sending(app, "POST", path) for _ in range(LARGEST_BODIES)]
    async with trio.open_nursery() as nursery:
        for call in held:
            nursery.start_soon(call.run)
            await call.send.send(b"x" * LIMIT_BYTES)
        await trio.testing.wait_all_tasks_blocked()

        refused = await Call(app, "POST", path, b"x").run()
        assert (refused.status, refused.answer_headers["retry-after"]) == (status, "5")
        assert str(LARGEST_BODIES * LIMIT_BYTES) in refused.content.decode()

        held[0].send.close()  # the client leaves, and its bytes with it
        await trio.testing.wait_all_tasks_blocked()
        assert (await Call(app, "POST", path, b"x").run()).status == 400
        nursery.cancel_scope.cancel()


async def test_a_body_that_arrives_too_slowly_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """A byte every few seconds was never silent for long, and held its connection for ever."""
    call = Sending(served(FakeRunner()).app, "POST", "/v1/messages")

    async def trickle() -> None:
        while True:
            await call.send.send(b"x")
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trickle)
        await call.run()
        nursery.cancel_scope.cancel()

    assert call.status == 408
    assert trio.current_time() == pytest.approx(STALLED_SECONDS + LINGER_SECONDS, abs=0.1)


async def test_a_body_may_take_long_when_it_keeps_coming(
    autojump_clock: trio.testing.MockClock,
) -> None:
    server = served(FakeRunner())
    call = Sending(server.app, "POST", "/v1/messages")
    body = json.dumps(anthropic_body() | {"metadata": {"user_id": "x" * 40_000}}).encode()
    seconds = 5
    async with running(server), trio.open_nursery() as nursery:
        nursery.start_soon(call.run)
        for at in range(0, len(body), seconds * SLOWEST_BYTES_PER_SECOND):
            await call.send.send(body[at : at + seconds * SLOWEST_BYTES_PER_SECOND])
            await trio.sleep(seconds)
        await call.send.send(b"")

        assert trio.current_time() > STALLED_SECONDS
    assert call.status == 200


def raw_deflate(data: bytes) -> bytes:
    """Deflate without the frame of zlib, as some clients send it."""
    deflater = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return deflater.compress(data) + deflater.flush()


COMPRESSED: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "gzip in two members": (
        "x-gzip",
        lambda data: gzip.compress(data[:10]) + gzip.compress(data[10:]),
    ),
    "deflate": ("deflate", zlib.compress),
    "deflate without its frame": ("deflate", raw_deflate),
    "a list with nothing in it": ("identity, GZIP", gzip.compress),
    "nothing": ("identity", lambda data: data),
    "a byte order mark": ("identity", lambda data: b"\xef\xbb\xbf" + data),
    "a byte order mark, compressed": ("gzip", lambda data: gzip.compress(b"\xef\xbb\xbf" + data)),
}


@pytest.mark.parametrize("name", COMPRESSED)
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", anthropic_body("hi" * 1_000)),
        ("/v1/chat/completions", openai_body("hi" * 1_000)),
    ],
)
async def test_a_compressed_body_is_the_same_request(
    name: str, path: str, body: dict[str, object], autojump_clock: trio.testing.MockClock
) -> None:
    encoding, compress = COMPRESSED[name]
    async with running(served(FakeRunner())) as server:
        call = await post(
            server.app, path, compress(json.dumps(body).encode()), **{"content-encoding": encoding}
        )

    assert call.status == 200, call.content


@pytest.mark.parametrize("encoding", ["zstd", "br", "gzip, gzip", "nonsense"])
async def test_an_encoding_that_is_not_known_is_named(
    encoding: str, autojump_clock: trio.testing.MockClock
) -> None:
    call = await post(
        served(FakeRunner()).app,
        "/v1/messages",
        b"\x28\xb5\x2f\xfd",
        **{"content-encoding": encoding},
    )

    assert call.status == 415
    assert encoding in call.content.decode()
    assert call.answer_headers["accept-encoding"] == "gzip, deflate"
    assert call.answer_headers["x-should-retry"] == "false"


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_an_archive_is_taken_as_it_is_or_not_at_all(
    encoding: str, autojump_clock: trio.testing.MockClock
) -> None:
    call = await post(
        served(FakeRunner()).app,
        "/v1/agents/a/import",
        gzip.compress(b"x"),
        **{"content-encoding": encoding},
    )

    assert call.status == 415


WHOLE = json.dumps(anthropic_body()).encode()
DAMAGED = {
    "no gzip at all": ("gzip", WHOLE),
    "gzip cut short": ("gzip", gzip.compress(WHOLE)[:-12]),
    "a byte changed": ("gzip", gzip.compress(WHOLE)[:-8] + b"\0\0\0\0\0\0\0\0"),
    "noise behind it": ("gzip", gzip.compress(WHOLE) + b"noise"),
    "no deflate at all": ("deflate", b"\xff\xff\xff\xff"),
}


@pytest.mark.parametrize("name", DAMAGED)
async def test_a_damaged_compressed_body_is_the_clients_fault(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    encoding, body = DAMAGED[name]
    call = await post(
        served(FakeRunner()).app, "/v1/messages", body, **{"content-encoding": encoding}
    )

    assert call.status == 400
    assert f"not valid {encoding}" in call.content.decode()


async def test_a_body_that_grows_beyond_the_limit_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    bomb = gzip.compress(b" " * 50_000_000)
    call = await post(
        served(FakeRunner(), HttpSettings(max_body_bytes=1_000_000)).app,
        "/v1/messages",
        bomb,
        **{"content-encoding": "gzip"},
    )

    assert len(bomb) < 1_000_000
    assert call.status == 413


async def test_decoded_bytes_count_towards_the_bound_on_all_bodies(
    autojump_clock: trio.testing.MockClock,
) -> None:
    app = served(FakeRunner(), HttpSettings(max_body_bytes=LIMIT_BYTES)).app
    held = [Sending(app, "POST", "/v1/messages") for _ in range(LARGEST_BODIES)]
    async with trio.open_nursery() as nursery:
        for call in held:
            nursery.start_soon(call.run)
            await call.send.send(b"x" * (LIMIT_BYTES - 100))
        await trio.testing.wait_all_tasks_blocked()
        refused = await post(
            app, "/v1/messages", gzip.compress(b" " * 5_000), **{"content-encoding": "gzip"}
        )
        nursery.cancel_scope.cancel()

    assert refused.status == 529


AMBIGUOUS = {
    "both lengths": "HTTP/1.1\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n",
    "both lengths, the other way round": (
        "HTTP/1.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n"
    ),
    "chunks in HTTP/1.0": "HTTP/1.0\r\nconnection: keep-alive\r\ntransfer-encoding: chunked\r\n",
    "two lengths": "HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n",
    "two transfer encodings": (
        "HTTP/1.1\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n"
    ),
    "an unknown transfer encoding": "HTTP/1.1\r\ntransfer-encoding: gzip, chunked\r\n",
    "a length that is no number": "HTTP/1.1\r\ncontent-length: +5\r\n",
}


def ambiguous(name: str, path: str) -> bytes:
    """A request whose body is over at once by one header, and later by the other."""
    line, _, headers = AMBIGUOUS[name].partition("\r\n")
    return f"POST {path} {line}\r\nhost: localhost\r\n{headers}\r\n0\r\n\r\n".encode()


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("path", ["/v1/messages", "/health/live"])
async def test_a_request_of_uncertain_length_is_refused(name: str, path: str) -> None:
    async with listening(served(FakeRunner())) as port:
        answer = await exchange(port, ambiguous(name, path), seconds=30)

    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 501"))
    assert b"connection: close" in answer.lower()


@pytest.mark.parametrize("name", AMBIGUOUS)
@pytest.mark.parametrize("path", ["/v1/messages", "/health/live"])
async def test_nothing_is_read_behind_a_request_of_uncertain_length(name: str, path: str) -> None:
    """A proxy that sees another end of the body than this server takes the second request for a
    part of the first one: smuggling.
    """
    smuggled = b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n"
    async with listening(served(FakeRunner())) as port:
        with trio.fail_after(30):
            answer = await exchange(port, ambiguous(name, path) + smuggled, seconds=60)

    assert b"HTTP/1.1 200" not in answer
    assert answer.count(b"HTTP/1.1 ") <= 1  # hypercorn may close before the answer is out


class CountingCodec(ByteCodec):
    """Knows how often it was asked to tokenise."""

    calls = 0

    def encode_prompt(self, *arguments: object, **options: object) -> object:  # type: ignore[override]
        """See `TextCodec.encode_prompt`."""
        self.calls += 1
        return super().encode_prompt(*arguments, **options)  # type: ignore[arg-type]

    def encode_text(self, text: str) -> tuple[int, ...]:
        """See `TextCodec.encode_text`."""
        self.calls += 1
        return super().encode_text(text)


HUGE = "x" * 7_000
HUGE_REQUESTS: dict[str, tuple[str, dict[str, object]]] = {
    "messages": ("/v1/messages", anthropic_body(HUGE)),
    "a system prompt": ("/v1/messages", anthropic_body() | {"system": HUGE}),
    "a tool": (
        "/v1/messages",
        anthropic_body()
        | {"tools": [{"name": "a", "description": HUGE, "input_schema": {"type": "object"}}]},
    ),
    "counting": (
        "/v1/messages/count_tokens",
        {"model": "default", "messages": [{"role": "user", "content": HUGE}]},
    ),
    "chat": ("/v1/chat/completions", openai_body(HUGE)),
    "completions": ("/v1/completions", {"model": "default", "prompt": HUGE}),
    "responses": ("/v1/responses", {"model": "default", "input": HUGE}),
    "embeddings": ("/v1/embeddings", {"model": "default", "input": HUGE}),
    "a query": ("/v1/rerank", {"model": "default", "query": HUGE, "documents": ["x"]}),
}


@pytest.mark.parametrize("name", HUGE_REQUESTS)
async def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenised(
    name: str, autojump_clock: trio.testing.MockClock
) -> None:
    """Tokenising takes 200 times the bytes of a text: one of 31 MB took 7 GB, to be refused in the
    end.
    """
    path, body = HUGE_REQUESTS[name]
    codec = CountingCodec()
    embeds = EmbeddingForm(is_approximate=False)
    async with running(
        served(FakeRunner(), context_length=100, codec=codec, embeds=embeds)
    ) as server:
        call = await post(server.app, path, body)

    assert call.status == 400
    assert codec.calls == 0
    assert str(-(-len(HUGE) // codec.longest_token_bytes)) in call.content.decode()
    assert "100" in call.content.decode()
