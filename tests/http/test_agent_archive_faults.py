"""Archives of agents that are refused, and the memory that they are read into."""

import errno

import attrs
import pytest
import trio
import trio.testing

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.chain import TokenRun, root_key
from semantic_trio.domain.geometry import LayerGroup, LayerKind
from semantic_trio.testing import FakeRunner, MemoryFiles
from semantic_trio.testing.files import MemoryArchives
from semantic_trio.testing.runner import ATTENTION_ONLY
from tests.http.agent_archives import DISK, LONG, an_archive, brought, exported, ids, with_disk
from tests.http.agents import Answer, create, do, say, view
from tests.http.serving import Call, get, running, served


def told(call: Call) -> Answer:
    error: Answer = call.json["error"]  # type: ignore[assignment]
    return error


# ---------------------------------------------------------------------------------- what is refused


async def test_an_agent_that_exists_is_not_replaced_and_is_refused_before_anything_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive = await an_archive()
    async with running(with_disk()) as server:
        await create(server, id="ada")
        call = Call(server.app, "POST", "/v1/agents/ada/import", archive)
        call._pieces = []  # nothing comes
        await call.run()

    assert (call.status, told(call)["code"]) == (409, "agent_exists")


async def test_of_many_who_bring_one_agent_one_does(autojump_clock: trio.testing.MockClock) -> None:
    archive, statuses = await an_archive(), []
    async with running(with_disk()) as server:

        async def bring() -> None:
            statuses.append((await brought(server, "ada", archive)).status)

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(bring)
        await say(server, "ada", "two")
        server.engine.memory.audit()

    assert sorted(statuses) == [201, 409, 409, 409, 409]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda archive: b"",
        lambda archive: b"?" + archive,
        lambda archive: archive[:-1],
        lambda archive: archive * 2,
    ],
)
async def test_what_is_no_archive_is_refused_and_leaves_nothing(
    spoil: object, autojump_clock: trio.testing.MockClock
) -> None:
    archive, files = await an_archive(), MemoryFiles()
    async with running(with_disk(files)) as server:
        call = await brought(server, "ada", spoil(archive))  # type: ignore[operator]
        left = (
            await ids(server),
            dict(files.index()),
            list(files.agents()),
            server.engine.memory.disk.used,
        )
        again = await brought(server, "ada", archive)

    assert (call.status, told(call)["param"]) == (400, "archive")
    assert left == ([], {}, [], 0)
    assert again.status == 201


async def test_another_models_agent_is_refused_with_both_names(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive = await an_archive()
    async with running(with_disk(MemoryFiles(fingerprint="other"))) as server:
        call = await brought(server, "ada", archive)

    assert call.status == 400
    assert told(call)["message"] == "archive: is of model fake, and this is other"


async def test_tokens_the_model_has_not_are_refused(autojump_clock: trio.testing.MockClock) -> None:
    """They would be looked up beyond the end of its embeddings."""
    archive, calls = await an_archive(), []
    for vocabulary in (ord("x"), ord("z") + 1):
        async with running(
            served(FakeRunner(), disk_bytes=DISK, files=MemoryFiles(), vocabulary=vocabulary)
        ) as server:
            calls.append(await brought(server, "ada", archive))

    assert [call.status for call in calls] == [400, 201]
    assert told(calls[0])["message"] == f"archive: has tokens beyond the {ord('x')} of the model"


@pytest.mark.parametrize("declared", [True, False])
async def test_an_archive_larger_than_the_disk_budget_is_refused(
    declared: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_disk(disk_bytes=1000)) as server:
        call = Call(
            server.app,
            "POST",
            "/v1/agents/ada/import",
            headers={"content-length": "1001"} if declared else {},
        )
        call._pieces = [] if declared else [b"x" * 500] * 3
        await call.run()

    assert call.status == 413
    assert "1000 bytes" in told(call)["message"]


async def test_without_a_disk_tier_nobody_comes_or_goes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive = await an_archive()
    async with running(served(FakeRunner())) as server:
        await create(server, id="ada")
        calls = [
            await get(server.app, "/v1/agents/ada/export"),
            await brought(server, "eve", archive),
        ]

    assert [(call.status, told(call)["code"]) for call in calls] == [(409, "disk_refused")] * 2
    assert all("memory is not kept on disk" in told(call)["message"] for call in calls)


async def test_a_disk_that_refuses_says_why(autojump_clock: trio.testing.MockClock) -> None:
    def full(what: str) -> None:
        if what in {"write", "spool"}:
            raise OSError(errno.ENOSPC, "No space left on device")

    archive = await an_archive()
    async with running(with_disk(MemoryFiles(before=full))) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
        calls = [
            await get(server.app, "/v1/agents/ada/export"),
            await brought(server, "eve", archive),
        ]

    assert [call.status for call in calls] == [409, 409]
    assert all("No space left on device" in told(call)["message"] for call in calls)


@pytest.mark.parametrize("what", ["spool", "free_bytes", "import_agent", "index"])
async def test_a_disk_that_fails_on_the_way_in_says_why(
    what: str, autojump_clock: trio.testing.MockClock
) -> None:
    def fail(called: str) -> None:
        if broken and called == what:
            raise OSError(errno.EIO, "Input/output error")

    archive, broken = await an_archive(), False
    async with running(with_disk(MemoryFiles(before=fail))) as server:
        broken = True
        call = await brought(server, "ada", archive)
        agents = await ids(server)

    assert (call.status, told(call)["message"], agents) == (409, "Input/output error", [])


async def test_a_record_with_blocks_of_another_size_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    source = MemoryFiles()
    async with running(with_disk(source)) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
        await exported(server, "ada")
    [record] = source.agents()
    chain = TokenRun.of_packed(record.history, root_key("fake"), 32).keys[-1]
    archive = b"".join(source.archives.export_agent(attrs.evolve(record, chain=chain)))
    async with running(with_disk()) as server:
        call = await brought(server, "ada", archive)
        agents = await ids(server)

    assert (call.status, told(call)["message"], agents) == (
        400,
        "archive: its tokens are not those of its blocks",
        [],
    )


async def test_space_that_is_to_stay_free_does(autojump_clock: trio.testing.MockClock) -> None:
    archive = await an_archive()
    server = with_disk(MemoryFiles(free=1_000_000))
    server.persistence.floor_bytes = 1_000_000
    async with running(server):
        call = await brought(server, "ada", archive)

    assert call.status == 409
    assert "1000000 are to stay free" in told(call)["message"]


async def test_an_export_that_fails_on_its_way_does_not_end_cleanly(
    autojump_clock: trio.testing.MockClock,
) -> None:
    asked: list[str] = []

    def break_later(what: str) -> None:
        asked.append(what)
        if asked.count("export_agent") > 1:
            raise OSError(errno.EIO, "Input/output error")

    async with running(with_disk(MemoryFiles(before=break_later))) as server:
        await create(server, id="ada")
        call = await get(server.app, "/v1/agents/ada/export")

    assert (call.status, call.is_complete) == (200, False)


async def test_who_leaves_while_sending_leaves_nothing(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive, files = await an_archive(), MemoryFiles()
    spools = []
    spool = files.archives.spool
    monkeypatch.setattr(MemoryArchives, "spool", lambda self: spools.append(spool()) or spools[-1])
    async with running(with_disk(files)) as server:
        call = await Leaving(server.app, "POST", "/v1/agents/ada/import", archive[:4]).run()
        agents = await ids(server)

    assert (call.status, agents) == (0, [])
    assert [one.closed for one in spools] == [True]


class Leaving(Call):
    """A client that sends its body, says that there is more, and is gone."""

    async def _receive(self) -> dict[str, object]:
        await trio.lowlevel.checkpoint()
        return (
            {"type": "http.request", "body": self._pieces.pop(), "more_body": True}
            if self._pieces
            else {"type": "http.disconnect"}
        )


@pytest.mark.parametrize(
    "method_and_path", [("GET", "/v1/agents/ada/export"), ("POST", "/v1/agents/ada/import")]
)
async def test_the_key_is_asked_for_before_anything_else(method_and_path: tuple[str, str]) -> None:
    method, path = method_and_path

    assert (
        await Call(with_disk(settings=HttpSettings(api_key="k")).app, method, path).run()
    ).status == 401


@pytest.mark.parametrize("agent", ["..", "a b", "a:b", "x" * 200])
async def test_ids_that_are_none_are_refused(
    agent: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_disk()) as server:
        assert (await brought(server, agent, b"")).status == 400
        assert (await get(server.app, f"/v1/agents/{agent}/export")).status == 400
        assert (await get(server.app, "/v1/agents/nobody/export")).status == 404


# ------------------------------------------------------------------------------ where its memory is


async def test_a_closed_agent_is_on_disk_and_comes_from_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as server:
        await create(server, id="ada", system="Be brief.")
        first = await say(server, "ada", LONG)
        warm = await view(server, "ada")
        closed = (await do(server, "ada", "close")).json
        second = await say(server, "ada", "two")
        again = await view(server, "ada")
        server.engine.memory.audit()

    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    assert (warm["state"], warm["bytes"]) == ("warm", 8 * known)
    assert (closed["state"], closed["bytes"], closed["blocks"]) == ("cold", 0, warm["blocks"])
    assert closed["disk_bytes"] > 8 * known  # type: ignore[operator]
    assert (second["cache"]["source"], second["usage"]["cached_tokens"]) == ("disk", known)
    assert again["state"] == "warm"


async def test_closing_gives_up_snapshots_too(autojump_clock: trio.testing.MockClock) -> None:
    """With sliding windows they are the larger part."""
    window = LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=8, window=32)
    spec = attrs.evolve(ATTENTION_ONLY, groups=(*ATTENTION_ONLY.groups, window))
    async with running(
        served(FakeRunner(spec=spec), disk_bytes=DISK, files=MemoryFiles())
    ) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
        before = server.engine.memory.snapshots.used
        await do(server, "ada", "close")
        after = server.engine.memory.store.pool.used
        second = await say(server, "ada", "two")
        server.engine.memory.audit()

    assert (before > 0, after) == (True, 0)
    assert (second["cache"]["source"], second["cache"]["cause"]) == ("disk", None)


async def test_an_agent_that_works_is_live_and_takes_ram(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(
            served(FakeRunner(seconds_per_step=0.1), disk_bytes=DISK, files=MemoryFiles())
        ) as server,
        trio.open_nursery() as nursery,
    ):
        await create(server, id="ada")
        await say(server, "ada", LONG)
        nursery.start_soon(lambda: say(server, "ada", "y" * 100, max_tokens=1000))
        await trio.sleep(5)
        live = await view(server, "ada")
        nursery.cancel_scope.cancel()

    assert live["state"] == "live"
    assert live["bytes"] >= 8 * 300


async def test_closing_does_not_wait_for_a_disk_that_refuses(
    autojump_clock: trio.testing.MockClock,
) -> None:
    def full(what: str) -> None:
        if what == "write":
            raise OSError(errno.ENOSPC, "No space left on device")

    async with running(with_disk(MemoryFiles(before=full))) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
        closed = await do(server, "ada", "close")

    assert (closed.status, closed.json["state"], closed.json["disk_bytes"]) == (200, "cold", 0)
