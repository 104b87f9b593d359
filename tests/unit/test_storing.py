"""Responses go when they are too old, also under a server that never ends."""

import time
from pathlib import Path

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.domain.errors import StoreError
from semantic_trio.domain.responses import StoredResponse
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.storing import DAY_SECONDS, prune, prune_daily, responses_stored
from semantic_trio.testing import MemoryResponses
from tests.http.serving import in_line


def response(name: str) -> StoredResponse:
    return StoredResponse.of(
        id=name, parent=None, model="m", created_at=1, status="completed", input=b"[]", output=b"{}"
    )


@pytest.mark.parametrize(("days", "kept"), [(30, []), (0, ["old"])])
async def test_what_is_too_old_goes_once_a_day(
    nursery: trio.Nursery,
    autojump_clock: MockClock,
    monkeypatch: pytest.MonkeyPatch,
    days: int,
    kept: list[str],
) -> None:
    """Its age is that of the server's days: the clock on the wall goes with the virtual one."""
    monkeypatch.setattr(time, "time", lambda: 1_800_000_000 + trio.current_time())
    store = MemoryResponses()
    await prune(ResponseStoreClient(lambda: store, in_line), days, "here")
    nursery.start_soon(prune_daily, ResponseStoreClient(lambda: store, in_line), days, "here")
    store.put(response("old"))

    await trio.sleep(31 * DAY_SECONDS - 1)
    assert store.get("old")
    await trio.sleep(2)
    assert [name for name in ("old",) if store.get(name)] == kept


async def test_a_start_with_the_clock_ahead_removes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryResponses()
    for ahead_days in (0, 40, 0, 1):
        monkeypatch.setattr(
            time, "time", lambda ahead_days=ahead_days: 1_800_000_000 + ahead_days * DAY_SECONDS
        )
        await prune(ResponseStoreClient(lambda: store, in_line), 30, "here")
        store.put(response(f"resp_{ahead_days}"))

    assert [name for name in ("resp_0", "resp_40", "resp_1") if store.get(name)] == [
        "resp_0",
        "resp_40",
        "resp_1",
    ]


async def test_a_database_that_is_away_does_not_end_it() -> None:
    def call(what: str) -> None:
        if what == "prune":
            raise StoreError("the database is away")

    store = MemoryResponses(call)
    store.put(response("old"))
    await prune(ResponseStoreClient(lambda: store, in_line), 30, "here")

    assert store.get("old")


async def test_the_log_says_where_responses_are_stored(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with responses_stored(Settings(cache_dir=tmp_path), lambda: None):
            pass

    assert lines == [
        {
            "event": "responses are stored",
            "log_level": "info",
            "where": str(tmp_path / "responses.sqlite"),
            "removed": 0,
        }
    ]
