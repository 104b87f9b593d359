"""Blocking work, done where it blocks nobody.

Knows threads and how long they may take. Knows nothing of what is done there.
"""

import math
from collections.abc import Callable
from typing import Protocol, TypeVar, TypeVarTuple

import attrs
import trio

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")

# How long one piece of work may take, in seconds: the largest files take one, and a disk that spins
# up ten.
PATIENCE_SECONDS = 30.0


class InThread(Protocol):
    """Runs a blocking function without blocking the event loop."""

    async def __call__(
        self, function: Callable[[*Arguments], Result], /, *arguments: *Arguments
    ) -> Result:
        """Run a function. Returns or raises what the function does."""


@attrs.define(eq=False)
class OneThread:
    """Runs blocking functions one at a time.

    A call that is cancelled returns at once; its function goes on, and the next one waits for its
    end.
    """

    _limiter: trio.CapacityLimiter = attrs.field(
        init=False, factory=lambda: trio.CapacityLimiter(1)
    )

    async def __call__(
        self, function: Callable[[*Arguments], Result], /, *arguments: *Arguments
    ) -> Result:
        """See `InThread`."""
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=self._limiter
        )


@attrs.define(eq=False)
class WatchedWork:
    """Work of one kind, and since when each piece of it is at it."""

    in_thread: InThread
    _since: dict[object, float] = attrs.field(init=False, factory=dict)

    async def do(self, function: Callable[[*Arguments], Result], *arguments: *Arguments) -> Result:
        """Run a function. Returns or raises what the function does."""
        piece = object()
        self._since[piece] = trio.current_time()
        try:
            return await self.in_thread(function, *arguments)
        finally:
            del self._since[piece]

    def hangs(self) -> bool:
        """True if work takes too long; reported once for each piece of work."""
        late = [
            piece
            for piece, since in self._since.items()
            if since <= trio.current_time() - PATIENCE_SECONDS
        ]
        self._since.update(dict.fromkeys(late, math.inf))
        return bool(late)
