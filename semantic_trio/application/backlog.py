"""The backlog of the engine: how many requests may run and wait, and when a refused client should
try again.

Knows counts and seconds. Knows no requests.
"""

import math

import attrs

from semantic_trio.domain.errors import InvalidRequestError, OverloadedError

# Seconds that a refused client is told to wait before anything was measured, and at most.
FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS = 1, 60
# Weight of the newest request in the mean duration.
NEWEST = 0.2


@attrs.define(eq=False)
class Backlog:
    """Bounds of the queue, and the pace at which requests end."""

    limit: int  # requests that may wait for a row
    max_rows: int
    # of recent requests, from submission to end
    _mean_seconds: float = attrs.field(init=False, default=0.0)

    def refuse(self, count: int, running_and_waiting: int, waiting: int) -> None:
        """Raise `OverloadedError` if `count` requests more would not all be taken now, and
        `InvalidRequestError` if they never could be.
        """
        most = self.limit + self.max_rows
        if count > most:
            raise InvalidRequestError(
                f"{count} answers are wanted at once, and {most} requests may run and wait",
                quotes=False,
            )
        if running_and_waiting + count > most:
            raise OverloadedError(waiting, self.limit, self.retry_after_seconds(waiting))

    def retry_after_seconds(self, waiting: int) -> int:
        """Return the seconds after which a refused client has a fair chance: the time that the
        queue needs at the recent pace.
        """
        if not self._mean_seconds:
            return FIRST_RETRY_SECONDS
        turns = (waiting + 1) / self.max_rows
        return min(
            LONGEST_RETRY_SECONDS, max(FIRST_RETRY_SECONDS, math.ceil(turns * self._mean_seconds))
        )

    def ended(self, seconds: float) -> None:
        """Note that a request has ended, so many seconds after its submission."""
        self._mean_seconds += (seconds - self._mean_seconds) * (
            NEWEST if self._mean_seconds else 1.0
        )
