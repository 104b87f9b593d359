"""How often streams are written to: all together at most so often, each in its turn.

Knows trio's clock. Knows nothing of what is written.
"""

import attrs
import trio

# Seconds between two writes to streams, of whatever stream, on average. A write takes 0.1 to 0.2 ms of Python, whatever it holds, on the thread that
# also starts every step; at 64 streams and 12 ms a step, a write per token would leave that thread no time (benchmarks/event_loop.py). At 64 streams
# each gets an event every 80 ms, at 16 every 20 ms.
WRITE_SECONDS = 0.00125
# Writes that may come at once: up to so many streams get every token as soon as there is one, if steps take 10 ms or more.
BURST = 8


@attrs.define(eq=False)
class WritePace:
    """The turns of all streams of a server.

    A stream that waits for its turn sends afterwards, as one event, all that has come meanwhile. So events hold more tokens where there are more
    streams or faster steps, and a stream that is alone never waits.
    """

    _next: float = attrs.field(init=False, default=0.0)  # seconds on trio's clock: when the next turn would begin if there were no bursts

    async def turn(self) -> None:
        """Wait until a stream that has written may write again; at once while there is time for its write."""
        now = trio.current_time()
        self._next = max(self._next, now) + WRITE_SECONDS
        turn = self._next - BURST * WRITE_SECONDS
        if turn > now:
            await trio.sleep_until(turn)
