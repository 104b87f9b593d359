"""Signals that end the server: the first one starts a drain, a later one ends the process at once.

Knows signals and when they came. Knows nothing of what is drained.
"""

import enum
import os
import signal
from collections.abc import Callable

import attrs
import structlog
import trio

log = structlog.get_logger(__name__)

# Seconds after the first signal within which others are the same request to end: a terminal signals
# a whole group, a wrapper sends its own besides.
SAME_SECONDS = 1.0


class Response(enum.Enum):
    """Response of the server to a signal."""

    DRAIN = "drain"
    NOTHING = "nothing"
    END = "end"  # at once


@attrs.define
class Signals:
    """The signals that have come so far."""

    _first_at: float | None = attrs.field(init=False, default=None)

    def response(self, number: int, now: float) -> Response:
        """Response to a signal that came `now` (seconds on any clock).

        SIGHUP says that a terminal is gone, which is no reason to hurry: service managers send it
        together with SIGTERM.
        """
        if self._first_at is None:
            self._first_at = now
            return Response.DRAIN
        if number == signal.SIGHUP or now - self._first_at < SAME_SECONDS:
            return Response.NOTHING
        return Response.END


def ending_signals() -> tuple[signal.Signals, ...]:
    """Signals that end this process; without SIGHUP where the process was started to ignore it, as
    `nohup` does.
    """
    hangup = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)
    return (signal.SIGTERM, signal.SIGINT, *hangup)


async def watch_signals(drain: Callable[[], None], grace_seconds: float) -> None:
    """Call `drain` on the first signal; end the process on one that comes later.

    Runs until cancelled.
    """
    signals = Signals()
    with trio.open_signal_receiver(*ending_signals()) as received:
        async for number in received:
            response = signals.response(number, trio.current_time())
            if response is Response.DRAIN:
                log.info(
                    "signal: draining",
                    signal=signal.Signals(number).name,
                    grace_seconds=grace_seconds,
                )
                drain()
            elif response is Response.END:
                log.warning("second signal: ending at once", signal=signal.Signals(number).name)
                os._exit(128 + number)
