"""The sinks that observations are delivered to: which there are, and for how long they are written to.

Knows settings and sinks. Knows nothing of what is observed.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence

import trio

from semantic_trio.adapters.events import EventFile
from semantic_trio.application.delivery import Delivery
from semantic_trio.entrypoints.ending import SINK_SECONDS
from semantic_trio.entrypoints.settings import Settings


def deliveries(settings: Settings) -> tuple[Delivery, ...]:
    """Return a delivery for each sink that the settings name."""
    return () if settings.event_log is None else (Delivery("event_log", EventFile(settings.event_log)),)


@contextlib.asynccontextmanager
async def delivering(sinks: Sequence[Delivery]) -> AsyncIterator[None]:
    """Write to the sinks until the context ends, and then what still waits, for `SINK_SECONDS` at most."""
    async with trio.open_nursery() as nursery:
        for sink in sinks:
            nursery.start_soon(sink.run)
        yield
        async with trio.open_nursery() as flushing:
            for sink in sinks:
                flushing.start_soon(sink.flush, SINK_SECONDS)
        nursery.cancel_scope.cancel()
