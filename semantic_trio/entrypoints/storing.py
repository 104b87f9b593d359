"""The database of responses: which one it is, for how long it is open, and what is too old for
it.
"""

import contextlib
import functools
import time
from collections.abc import AsyncIterator, Callable

import structlog
import trio

from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.adapters.store import Bounds, open_store, place_of
from semantic_trio.domain.errors import StoreError
from semantic_trio.entrypoints.settings import Settings

log = structlog.get_logger(__name__)

# Where no other database is named.
DEFAULT_FILE = "responses.sqlite"
DAY_SECONDS = 86_400
MIB = 1 << 20
# How long a database may take to be closed; one that hangs is left.
CLOSE_SECONDS = 5.0


@contextlib.asynccontextmanager
async def responses_stored(
    settings: Settings, claim: Callable[[], None]
) -> AsyncIterator[ResponseStoreClient]:
    """The database, until the context ends.

    One that cannot be used now is tried again when it is needed. `claim` has the cache directory.

    Raises `InvalidRequestError`.
    """
    url, file = "".join(settings.responses_url), settings.cache_dir / DEFAULT_FILE
    bounds = Bounds(settings.responses_budget_mb * MIB, settings.disk_floor_mb * MIB, claim)
    records, place = (
        ResponseStoreClient(functools.partial(open_store, url, file, bounds)),
        place_of(url, file),
    )
    try:
        await prune(records, settings.responses_days, place)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(prune_daily, records, settings.responses_days, place)
            yield records
            nursery.cancel_scope.cancel()
    finally:
        with trio.move_on_after(CLOSE_SECONDS, shield=True):
            await trio.to_thread.run_sync(records.close, abandon_on_cancel=True)


async def prune_daily(records: ResponseStoreClient, days: int, place: str) -> None:
    """Remove what is older, again and again; with 0 days nothing is."""
    while True:
        await trio.sleep(DAY_SECONDS)
        await prune(records, days, place)


async def prune(records: ResponseStoreClient, days: int, place: str) -> None:
    """Remove what came earlier than so many days ago, and say whether there is a database at all,
    and where.

    Days are those on which a server was working: a clock that is wrong, or a machine that was off,
    removes nothing.
    """
    today = int(time.time()) // DAY_SECONDS
    try:
        removed = await records.call(lambda store: store.prune(today, days))
    except StoreError as error:
        log.error("responses are not stored", reason=error.reason)
    else:
        log.info("responses are stored", where=place, removed=removed)
