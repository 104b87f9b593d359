"""A circuit breaker: it stops work that fails again and again, and lets it be tried again after a
pause.

Knows failures and pauses. Knows no clock: callers give the time, in seconds.
"""

import enum

import attrs

# Failures in a row that open the circuit.
MOST_FAILURES = 3
# Pause before the first new try, doubled after each try that fails, and its bound; in seconds.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


class BreakerState(enum.Enum):
    """The state of a circuit."""

    CLOSED = "closed"  # work is done
    OPEN = "open"  # nothing is tried before `retry_at`
    HALF_OPEN = "half_open"  # one try decides


@attrs.define
class CircuitBreaker:
    """The state of one circuit. Callers do no work while it is open, until `retry_at`."""

    state: BreakerState = attrs.field(init=False, default=BreakerState.CLOSED)
    retry_at: float = attrs.field(init=False, default=0.0)  # end of the pause, while open
    _failures: int = attrs.field(init=False, default=0)  # in a row
    _pause: float = attrs.field(init=False, default=FIRST_PAUSE_SECONDS)

    def try_again(self) -> None:
        """Let work be tried once, at the end of the pause."""
        self.state = BreakerState.HALF_OPEN

    def succeeded(self) -> None:
        """Close the circuit."""
        self.state, self._failures, self._pause = BreakerState.CLOSED, 0, FIRST_PAUSE_SECONDS

    def failed(self, now: float) -> None:
        """Count a failure.

        The circuit opens with the last one that is allowed, and with any one while it is half open.
        """
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN or self._failures >= MOST_FAILURES:
            self.state, self.retry_at = BreakerState.OPEN, now + self._pause
            self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)
