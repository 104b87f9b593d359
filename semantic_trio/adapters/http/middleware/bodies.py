"""Request bodies: bounded while they arrive, each alone and all together.

Knows ASGI messages. Knows nothing of what the bodies hold.
"""

import attrs
import trio
from hypercorn.typing import ASGIReceiveCallable

from semantic_trio.adapters.http.common.faults import ROOM_SECONDS, Fault
from semantic_trio.adapters.http.common.protocol import Protocol

# Seconds without a byte after which a body has stalled, and seconds that a body of any size may
# take.
STALLED_SECONDS = 30
# Bytes a second below which a body that takes longer is too slow: a modem's rate, and more than one
# byte every few seconds.
SLOWEST_BYTES_PER_SECOND = 1_024


@attrs.define(eq=False)
class BodyBudget:
    """Bytes that the bodies of all requests under way may take together."""

    limit_bytes: int
    used_bytes: int = attrs.field(init=False, default=0)


@attrs.define(eq=False)
class ReservedBytes:
    """Bytes of the budget that one request has reserved; its exchange releases them."""

    budget: BodyBudget
    protocol: Protocol
    size: int = attrs.field(init=False, default=0)

    def add(self, size: int) -> None:
        """Reserve more.

        Raises `Fault` where all bodies together would be too large; earlier reservations stay.
        """
        if self.budget.used_bytes + size > self.budget.limit_bytes:
            raise _no_room(self.budget, self.protocol)
        self.budget.used_bytes += size
        self.size += size

    def release(self) -> None:
        """Release all reserved bytes."""
        self.budget.used_bytes -= self.size
        self.size = 0


@attrs.define(eq=False)
class BodyReader:
    """A body that arrives in chunks and is refused as soon as it is known to be too large or too
    slow.
    """

    receive: ASGIReceiveCallable
    limit_bytes: int
    is_whole: bool = attrs.field(init=False, default=False)
    size: int = attrs.field(init=False, default=0)
    _began: float = attrs.field(init=False, factory=trio.current_time)

    async def next(self) -> bytes | None:
        """Return the next chunk; None if the client left.

        Raises `Fault` 413 beyond the limit, 408 when the body stalls or is too slow.
        """
        slowest = self._began + STALLED_SECONDS + self.size / SLOWEST_BYTES_PER_SECOND
        with trio.CancelScope(
            deadline=min(slowest, trio.current_time() + STALLED_SECONDS)
        ) as scope:
            message = await self.receive()
        if scope.cancelled_caught:
            raise Fault(
                408,
                (
                    f"the request's body stalled: in {trio.current_time() - self._began:.0f} s "
                    f"{self.size} bytes have arrived"
                ),
            )
        if message["type"] != "http.request":
            return None
        self.size += len(message["body"])
        if self.size > self.limit_bytes:
            raise too_large(self.limit_bytes)
        self.is_whole = not message["more_body"]
        return message["body"]


def declared_bytes(headers: dict[str, str], limit_bytes: int) -> int:
    """Return the declared length of a body, 0 without one.

    Raises `Fault` 413 where that is beyond the limit.
    """
    declared = headers.get("content-length", "0")
    size = int(declared) if declared.isdigit() else 0
    if size > limit_bytes:
        raise too_large(limit_bytes)
    return size


async def read_body(
    headers: dict[str, str], receive: ASGIReceiveCallable, limit_bytes: int, held: ReservedBytes
) -> bytes | None:
    """Return the body as it was sent, with its bytes reserved in `held`; None if the client left
    before its end.

    Raises `Fault` 413 as soon as it is known to be larger than `limit_bytes` (at once when its
    length was declared), 408 when it stalls or is too slow, 429 or 529 where all bodies together
    are too large.
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


def too_large(limit_bytes: int) -> Fault:
    """Return the error for a body beyond its limit."""
    return Fault(413, f"Request too large: the body may have {limit_bytes} bytes")


def _no_room(budget: BodyBudget, protocol: Protocol) -> Fault:
    status = 529 if protocol is Protocol.ANTHROPIC else 429
    message = (
        f"overloaded: the bodies of the requests under way take {budget.used_bytes} bytes, all "
        f"together may take {budget.limit_bytes}"
    )
    return Fault(status, message, code="rate_limit_exceeded", retry_after_seconds=ROOM_SECONDS)
