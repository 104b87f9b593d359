"""A client of the Chat Completions API that notes when each piece of an answer came.

Knows HTTP and that API's stream, of any server. Every request has a connection of its own. Knows
nothing of what is measured.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import SplitResult, urlsplit

import attrs
import h11
import msgspec
import trio

from semantic_trio.domain.errors import InvalidRequestError

CONNECT_SECONDS = 10.0
RECEIVE_BYTES = 1 << 16
OK = 200

# An address that is none, no connection, one that breaks, an answer that is not HTTP or not JSON.
FAULTS = (
    ValueError,
    OSError,
    trio.TooSlowError,
    trio.BrokenResourceError,
    h11.RemoteProtocolError,
    msgspec.DecodeError,
)

Message = Mapping[str, str]


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None


class _Choice(msgspec.Struct):
    delta: _Delta


class _Details(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int
    completion_tokens: int
    prompt_tokens_details: _Details | None = None


class _Problem(msgspec.Struct):
    message: str = ""


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: _Problem | None = None


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


@attrs.define(eq=False)
class TimedAnswer:
    """A streamed answer. Times are seconds of `time.perf_counter`."""

    lead: int = 0  # pieces after which `is_running` is set; it is set at the end of the answer too
    started: float = 0.0
    ended: float = 0.0
    text: str = ""
    thoughts: str = ""
    stamps: list[float] = attrs.field(factory=list)  # when each piece of text came
    tokens: int = 0  # generated
    prompt_tokens: int = 0
    cached_tokens: int = 0  # of the prompt; 0 also where the server does not tell
    is_running: trio.Event = attrs.field(factory=trio.Event)
    _rest: bytes = b""

    @property
    def first_seconds(self) -> float:
        """Seconds until the first piece of text; of an answer without text until its end."""
        return (self.stamps[0] if self.stamps else self.ended) - self.started

    def take(self, data: bytes) -> None:
        """Take bytes of the stream as they come.

        Raises `InvalidRequestError` where the server reports an error.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                self._add(msgspec.json.decode(line[6:], type=_Chunk))

    def _add(self, chunk: _Chunk) -> None:
        if chunk.error:
            raise InvalidRequestError(f"the server ended an answer: {chunk.error.message}", "url")
        if usage := chunk.usage:
            self.prompt_tokens, self.tokens = usage.prompt_tokens, usage.completion_tokens
            self.cached_tokens = (
                usage.prompt_tokens_details.cached_tokens if usage.prompt_tokens_details else 0
            )
        for choice in chunk.choices:
            text, thoughts = choice.delta.content or "", choice.delta.reasoning_content or ""
            self.text, self.thoughts = self.text + text, self.thoughts + thoughts
            if text or thoughts:
                self.stamps.append(time.perf_counter())
                if len(self.stamps) == self.lead:
                    self.is_running.set()


@attrs.frozen
class Client:
    """A server at a base URL, as its clients see it."""

    url: str
    key: str | None = None
    model: str = "default"

    async def model_id(self) -> str:
        """The name of the first model that the server lists. Raises `InvalidRequestError`."""
        body = bytearray()
        await self._exchange("GET", "/v1/models", b"", body.extend)
        try:
            return msgspec.json.decode(bytes(body), type=_Models).data[0].id
        except (msgspec.DecodeError, IndexError) as error:
            raise InvalidRequestError(f"{self.url} lists no models ({error})", "url") from error

    async def chat(
        self, messages: Sequence[Message], tokens: int, answer: TimedAnswer | None = None
    ) -> TimedAnswer:
        """Have a conversation answered greedily with at most so many tokens.

        Raises `InvalidRequestError` where the server does not.
        """
        answer = answer or TimedAnswer()
        asked = {"model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0}
        body = msgspec.json.encode(
            asked | {"stream": True, "stream_options": {"include_usage": True}}
        )
        answer.started = time.perf_counter()
        try:
            await self._exchange("POST", "/v1/chat/completions", body, answer.take)
        finally:
            answer.ended = time.perf_counter()
            answer.is_running.set()
        if not answer.tokens:
            raise InvalidRequestError(
                (
                    f"{self.url} does not count the tokens of streamed answers "
                    "(stream_options.include_usage)"
                ),
                "url",
            )
        return answer

    async def _exchange(
        self, method: str, path: str, body: bytes, take: Callable[[bytes], None]
    ) -> None:
        """Send a request, and hand over the body of its answer as it comes."""
        refusal = bytearray()
        try:
            async with await self._connect() as stream:
                connection = h11.Connection(h11.CLIENT)
                parts = self._request(method, path, body), h11.Data(body), h11.EndOfMessage()
                await stream.send_all(b"".join(connection.send(part) or b"" for part in parts))
                status = await _receive(stream, connection, take, refusal.extend)
        except FAULTS as error:
            why = (
                "no connection in time"
                if isinstance(error, trio.TooSlowError)
                else str(error) or type(error).__name__
            )
            raise InvalidRequestError(
                f"no whole answer from {self.url} ({why}): is a server running there?", "url"
            ) from error
        if status != OK:
            raise InvalidRequestError(f"{self.url} says {status}: {_reason(bytes(refusal))}", "url")

    async def _connect(self) -> trio.abc.Stream:
        host, port, is_secure = (
            self._parts.hostname,
            self._parts.port,
            self._parts.scheme == "https",
        )
        if not host:
            raise ValueError("it names no host")
        with trio.fail_after(CONNECT_SECONDS):
            if is_secure:
                return await trio.open_ssl_over_tcp_stream(host, port or 443, https_compatible=True)
            return await trio.open_tcp_stream(host, port or 80)

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url if "//" in self.url else f"//{self.url}", scheme="http")

    def _request(self, method: str, path: str, body: bytes) -> h11.Request:
        """A request for a path under the base URL, which may end with `/v1` as clients of OpenAI
        have it.
        """
        base = self._parts.path.rstrip("/").removesuffix("/v1")
        key = [("authorization", f"Bearer {self.key}")] if self.key else []
        content = [("content-type", "application/json"), ("content-length", str(len(body)))]
        return h11.Request(
            method=method,
            target=f"{base}{path}",
            headers=[("host", self._parts.netloc), ("connection", "close"), *content, *key],
        )


async def _receive(
    stream: trio.abc.Stream,
    connection: h11.Connection,
    take: Callable[[bytes], None],
    refused: Callable[[bytes], None],
) -> int:
    """Receive an answer; its status."""
    status = 0
    while not isinstance(event := connection.next_event(), h11.EndOfMessage | h11.ConnectionClosed):
        if event is h11.NEED_DATA:
            connection.receive_data(bytes(await stream.receive_some(RECEIVE_BYTES)))
        elif isinstance(event, h11.Response):
            status = event.status_code
        elif isinstance(event, h11.Data):
            (take if status == OK else refused)(bytes(event.data))
    return status


def _reason(body: bytes) -> str:
    try:
        chunk = msgspec.json.decode(body, type=_Chunk)
    except msgspec.DecodeError:
        return body[:200].decode(errors="replace")
    return chunk.error.message if chunk.error else ""
