"""Request bodies: bounded while they arrive, each and all together, and decoded with errors that name the field.

Knows ASGI messages and JSON. Knows nothing of what the fields mean.
"""

import re
from collections.abc import Callable
from typing import TypeVar

import attrs
import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable

from semantic_trio.adapters.http.faults import ROOM_SECONDS, Fault
from semantic_trio.adapters.http.protocol import Protocol

T = TypeVar("T")

# Bytes above which a body is understood in a worker thread: 32,000 take 0.1 ms of the event loop, 3 ms where they are thousands of blocks.
IN_LOOP_BYTES = 32_000
# Seconds of silence after which a body has stalled; and those it may take whatever its size.
STALLED_SECONDS = 30
# Bytes a second that a body has to arrive with beyond that: a modem's pace, and still no byte every few seconds.
SLOWEST_BYTES_PER_SECOND = 1_024
AT_PATH = re.compile(r"^(?P<what>.*?)(?: - at (?:`key` in )?`(?P<path>\$[^`]*)`)?$", re.DOTALL)
MISSING = re.compile(r"^Object missing required field `(?P<name>[^`]*)`")
# An escape in JSON; one of half a character, whose other half is not beside it, is named.
ESCAPE = re.compile(rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(?P<half>u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL)
BROKEN = rb"\ufffd"
# Strings whole, so that digits within one are no number; a number with a fraction or an exponent.
STRING_OR_NUMBER = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9]+(?P<fraction>\.[0-9]+(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)?', re.DOTALL)
UNSUPPORTED = re.compile(r"^Invalid (?:enum )?value (?P<value>.*)$", re.DOTALL)


@attrs.define(eq=False)
class BodyBudget:
    """Bytes that the bodies of all requests under way may take together."""

    limit_bytes: int
    used_bytes: int = attrs.field(init=False, default=0)


@attrs.define(eq=False)
class HeldBytes:
    """Bytes of the budget that one request holds; its exchange releases them."""

    budget: BodyBudget
    protocol: Protocol
    size: int = attrs.field(init=False, default=0)

    def add(self, size: int) -> None:
        """Hold more. Raises `Fault` where all bodies together would be too large; what is held stays held."""
        if self.budget.used_bytes + size > self.budget.limit_bytes:
            raise _no_room(self.budget, self.protocol)
        self.budget.used_bytes += size
        self.size += size

    def release(self) -> None:
        """Hold nothing more."""
        self.budget.used_bytes -= self.size
        self.size = 0


@attrs.define(eq=False)
class BodyReader:
    """A body that arrives in chunks, and is refused as soon as it is known to be too large or too slow."""

    receive: ASGIReceiveCallable
    limit_bytes: int
    is_whole: bool = attrs.field(init=False, default=False)
    size: int = attrs.field(init=False, default=0)
    _began: float = attrs.field(init=False, factory=trio.current_time)

    async def next(self) -> bytes | None:
        """The next chunk; None when the client left before the end. Raises `Fault` 413 beyond the limit, 408 when the body stalls or is too slow."""
        slowest = self._began + STALLED_SECONDS + self.size / SLOWEST_BYTES_PER_SECOND
        with trio.CancelScope(deadline=min(slowest, trio.current_time() + STALLED_SECONDS)) as scope:
            message = await self.receive()
        if scope.cancelled_caught:
            raise Fault(408, f"the request's body stalled: in {trio.current_time() - self._began:.0f} s {self.size} bytes have arrived")
        if message["type"] != "http.request":
            return None
        self.size += len(message["body"])
        if self.size > self.limit_bytes:
            raise too_large(self.limit_bytes)
        self.is_whole = not message["more_body"]
        return message["body"]


def declared_bytes(headers: dict[str, str], limit_bytes: int) -> int:
    """How long a body says it is; 0 where it does not. Raises `Fault` 413 where that is beyond the limit."""
    declared = headers.get("content-length", "0")
    size = int(declared) if declared.isdigit() else 0
    if size > limit_bytes:
        raise too_large(limit_bytes)
    return size


async def read_body(headers: dict[str, str], receive: ASGIReceiveCallable, limit_bytes: int, held: HeldBytes) -> bytes | None:
    """The whole body as it was sent, in `held` bytes of the budget; or None when the client left before its end.

    Raises `Fault` 413 as soon as it is known to be larger than `limit_bytes` (at once when its length was declared), 408 when it stalls or is too
    slow, 429 or 529 where all bodies together are too large.
    """
    declared_bytes(headers, limit_bytes)
    reader, chunks = BodyReader(receive, limit_bytes), []
    while not reader.is_whole:
        chunk = await reader.next()
        if chunk is None:
            return None
        held.add(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def understood(body: bytes, understand: Callable[[bytes], T]) -> T:
    """What a body means; a large one is looked at in a thread, and others are served meanwhile."""
    if len(body) <= IN_LOOP_BYTES:
        return understand(body)
    return await trio.to_thread.run_sync(understand, body)


def decode(body: bytes | msgspec.Raw, kind: type[T], at: str = "") -> T:
    """The body, or the part of it that stands `at` a path, as a `kind`. Raises `Fault` 400 that names the field, dotted: `messages.0.content`."""
    try:
        try:
            return msgspec.json.decode(body, type=kind)
        except msgspec.ValidationError as error:
            if "got `float`" not in str(error):
                raise
            return msgspec.json.decode(_with_whole_numbers(body), type=kind)
    except msgspec.ValidationError as error:
        raise _invalid(str(error), at) from error
    except (msgspec.DecodeError, ValueError) as error:
        if (whole := ESCAPE.sub(_whole_character, bytes(body))) != body:
            return decode(whole, kind, at)
        raise _unreadable(f"not valid JSON: {error}", at) from error
    except RecursionError as error:
        raise _unreadable("nested too deeply", at) from error


def _whole_character(escape: re.Match[bytes]) -> bytes:
    """Half a character, as clients send it that have cut a text in the middle of an emoji, becomes the sign for a broken one."""
    return BROKEN if escape["half"] else escape[0]


def _with_whole_numbers(body: bytes | msgspec.Raw) -> bytes:
    """Write whole numbers as integers: 32000.0 is one to JSON Schema, and to languages that know one kind of number. All else stays as it was."""
    return STRING_OR_NUMBER.sub(_whole_number, bytes(body))


def _whole_number(found: re.Match[bytes]) -> bytes:
    if found["fraction"] is None:
        return found[0]
    value = float(found[0])
    return str(int(value)).encode() if value.is_integer() else found[0]


def _invalid(told: str, at: str) -> Fault:
    match = AT_PATH.match(told)
    what, path = (match["what"], match["path"]) if match else (told, None)
    field = ".".join(filter(None, (at, _dotted(path or "$"))))
    missing, unsupported = MISSING.match(what), UNSUPPORTED.match(what)
    if missing:
        field, what = ".".join(filter(None, (field, missing["name"]))), "Field required"
    elif unsupported:
        what = f"{unsupported['value']} is not supported"
    return Fault(400, f"{field}: {what}" if field else what, field=field or None, is_private=bool(unsupported))


def _unreadable(what: str, at: str) -> Fault:
    return Fault(400, f"{at}: {what}" if at else f"the body is {what}", field=at or None)


def _dotted(path: str) -> str:
    """A path as clients write it: a key of a map, which nobody tells, is left out."""
    return re.sub(r"\[(\d+)\]", r".\1", path).replace("[...]", "").removeprefix("$").removeprefix(".")


def too_large(limit_bytes: int) -> Fault:
    """The refusal of a body of more bytes than one may have."""
    return Fault(413, f"Request too large: the body may have {limit_bytes} bytes")


def _no_room(budget: BodyBudget, protocol: Protocol) -> Fault:
    status = 529 if protocol is Protocol.ANTHROPIC else 429
    message = f"overloaded: the bodies of the requests under way take {budget.used_bytes} bytes, all together may take {budget.limit_bytes}"
    return Fault(status, message, code="rate_limit_exceeded", retry_after_seconds=ROOM_SECONDS)
