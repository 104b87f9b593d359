"""The pace of writes to streams: a bounded rate for all streams of a server together.

Knows trio's clock. Knows nothing of what is written.
"""

import attrs
import trio

# Average seconds between two writes to any streams. A write takes 0.1 to 0.2 ms of Python, whatever
# its size, on the thread that also starts every step; at 64 streams and 12 ms a step, a write per
# token would leave that thread no time (benchmarks/event_loop.py). At 64 streams each gets an event
# every 80 ms, at 16 every 20 ms.
WRITE_SECONDS = 0.00125
# Writes that may happen at once: so many streams get every token immediately, if steps take 10 ms
# or more.
BURST = 8


@attrs.define(eq=False)
class WritePace:
    """The write turns of all streams of a server.

    A stream that waits for its turn then sends, as one event, everything that has arrived
    meanwhile. So events hold more tokens with more streams or faster steps, and a single stream
    never waits.
    """

    # seconds on trio's clock: the next turn if there were no bursts
    _next: float = attrs.field(init=False, default=0.0)

    async def turn(self) -> None:
        """Wait until a stream may write again; returns at once while the rate allows it."""
        now = trio.current_time()
        self._next = max(self._next, now) + WRITE_SECONDS
        turn = self._next - BURST * WRITE_SECONDS
        if turn > now:
            await trio.sleep_until(turn)
