"""A clock for trio that counts the seconds in which the process ran.

A process is stopped by SIGSTOP, Ctrl-Z, a debugger, a frozen container or a paused virtual machine.
With trio's own clock every deadline is over when the process goes on: the step under way has
"hung", and clients are dropped that had no chance to send or read. Knows nothing of deadlines.
"""

import time
from collections.abc import Callable

import attrs
import trio

# Seconds after which an idle event loop looks at the clock again: only looks that are expected can
# be missed.
TICK_SECONDS = 0.5
# Seconds between two looks beyond which the process may have been stopped in between: a tick, and
# as much for a busy machine.
LONGEST_GAP_SECONDS = 2 * TICK_SECONDS
# Seconds for which a reading of the CPU time is good enough; each costs a system call.
CPU_SECONDS = TICK_SECONDS / 4


@attrs.define(eq=False)
class RunningClock(trio.abc.Clock):
    """Monotonic seconds, without those in which the process was stopped.

    Of a long gap between two looks the CPU time counts that the process has used in it, one tick at
    least: an event loop that computes does not look at the clock either.
    """

    wall: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.process_time
    stopped_seconds: float = attrs.field(init=False, default=0.0)
    _wall_seen: float = attrs.field(init=False, default=0.0)
    _cpu_seen: float = attrs.field(init=False, default=0.0)
    _cpu_seen_at: float = attrs.field(init=False, default=0.0)

    def start_clock(self) -> None:
        """See `trio.abc.Clock`."""
        self._wall_seen = self.wall()
        self._read_cpu()

    def current_time(self) -> float:
        """See `trio.abc.Clock`."""
        now = self.wall()
        gap, self._wall_seen = now - self._wall_seen, now
        if gap > LONGEST_GAP_SECONDS:
            used = self.cpu() - self._cpu_seen
            self.stopped_seconds += gap - min(gap, max(used, TICK_SECONDS))
        if now - self._cpu_seen_at > CPU_SECONDS:
            self._read_cpu()
        return now - self.stopped_seconds

    def deadline_to_sleep_time(self, deadline: float) -> float:
        """See `trio.abc.Clock`."""
        return min(deadline - self.current_time(), TICK_SECONDS)

    def _read_cpu(self) -> None:
        self._cpu_seen, self._cpu_seen_at = self.cpu(), self._wall_seen
