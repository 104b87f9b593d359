"""Responses go when they are too old, also under a server that never ends."""

import time
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.adapters.http.responses.records import Records
from semantic_trio.domain.errors import StoreError
from semantic_trio.domain.responses import StoredResponse
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.storing import DAY_SECONDS, prune, prune_daily, responses_stored
from semantic_trio.testing import MemoryResponses
from tests.http.serving import in_line


def response(name: str, *, days_old: float) -> StoredResponse:
    created_at = int(time.time() - days_old * DAY_SECONDS)
    return StoredResponse.of(id=name, parent=None, model="m", created_at=created_at, status="completed", input=b"[]", output=b"{}")


@pytest.mark.parametrize(("days", "kept"), [(30, ["young"]), (0, ["old", "young"])])
async def test_what_is_too_old_goes_once_a_day(nursery: trio.Nursery, autojump_clock: MockClock, days: int, kept: list[str]) -> None:
    store = MemoryResponses()
    nursery.start_soon(prune_daily, Records(lambda: store, in_line), days, "here")

    for _ in range(2):
        store.put(response("old", days_old=31))
        store.put(response("young", days_old=29))
        await trio.sleep(DAY_SECONDS - 1)
        assert [name for name in ("old", "young") if store.get(name)] == ["old", "young"]
        await trio.sleep(2)
        assert [name for name in ("old", "young") if store.get(name)] == kept


async def test_a_database_that_is_away_does_not_end_it() -> None:
    def ask(what: str) -> None:
        if what == "prune":
            raise StoreError("the database is away")

    store = MemoryResponses(ask)
    store.put(response("old", days_old=31))
    await prune(Records(lambda: store, in_line), 30, "here")

    assert store.get("old")


async def test_the_log_says_where_responses_are_stored(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with responses_stored(Settings(cache_dir=tmp_path)):
            pass

    assert lines == [{"event": "responses are stored", "log_level": "info", "where": str(tmp_path / "responses.sqlite"), "removed": 0}]
