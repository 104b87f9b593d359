"""Agents that leave a server as files and come to another, or back."""

import errno
from collections.abc import Callable
from pathlib import Path

import attrs
import httpx
import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result

from semantic_trio.adapters.disk import CacheLock, ModelFiles
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.chain import TokenRun, root_key
from semantic_trio.domain.content import ImportTrust
from semantic_trio.domain.geometry import LayerGroup, LayerKind
from semantic_trio.entrypoints.cli import main
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.testing import FakeRunner, MemoryFiles
from semantic_trio.testing.files import MemoryArchives
from semantic_trio.testing.runner import ATTENTION_ONLY
from tests.http.agents import Answer, create, delete, do, say, view
from tests.http.serving import Call, Served, get, listening, openai_body, post, running, served

DISK = 1 << 24
LONG = "x" * 200


def with_disk(
    files: CacheFiles | None = None,
    settings: HttpSettings | None = None,
    disk_bytes: int = DISK,
    trust: ImportTrust = ImportTrust.AGENT,
) -> Served:
    server = served(FakeRunner(), settings, disk_bytes=disk_bytes, files=files or MemoryFiles())
    server.persistence.import_trust = trust
    return server


async def exported(server: Served, agent: str) -> bytes:
    call = await get(server.app, f"/v1/agents/{agent}/export")
    assert (call.status, call.is_complete) == (200, True), call.content
    return call.content


async def brought(server: Served, agent: str, archive: bytes, **headers: str) -> Call:
    return await post(
        server.app,
        f"/v1/agents/{agent}/import",
        archive,
        **{"content-type": "application/x-tar", **headers},
    )


async def an_archive(agent: str = "ada", message: str = LONG) -> bytes:
    """Made by a server that is gone."""
    async with running(with_disk()) as server:
        await create(server, id=agent, system="Be brief.")
        await say(server, agent, message)
        return await exported(server, agent)


def told(call: Call) -> Answer:
    error: Answer = call.json["error"]  # type: ignore[assignment]
    return error


async def ids(server: Served) -> list[str]:
    return [agent["id"] for agent in (await get(server.app, "/v1/agents")).json["data"]]  # type: ignore[index, attr-defined]


# ----------------------------------------------------------------------------------- there and back


async def test_who_was_exported_and_deleted_comes_back_with_all_it_knew(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as server:
        await create(server, id="ada", system="Be brief.")
        first = await say(server, "ada", LONG)
        before = await view(server, "ada")
        archive = await exported(server, "ada")
        gone = [await delete(server.app, "ada"), (await get(server.app, "/v1/agents/ada")).status]
        await trio.sleep(1)
        left = dict(server.persistence.files.index())
        back = await brought(server, "ada", archive)
        after = back.json
        second = await say(server, "ada", "two")
        server.engine.memory.audit()

    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    assert (gone, left) == ([204, 404], {})
    assert back.status == 201
    assert (after["state"], after["bytes"], after["disk_bytes"] > known * 8) == ("cold", 0, True)  # type: ignore[operator]
    assert [after[what] for what in ("tokens", "messages", "turns", "blocks")] == [
        before[what] for what in ("tokens", "messages", "turns", "blocks")
    ]
    assert (second["cache"]["source"], second["usage"]["cached_tokens"]) == ("disk", known)


async def test_who_comes_back_does_not_lose_what_was_being_deleted(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The files of a deleted agent go one by one, and those that are there yet are taken for what
    the archive has.
    """
    server = with_disk()

    async def slowly(function: Callable[..., object], /, *arguments: object) -> object:
        await trio.sleep(1)
        return function(*arguments)

    async with running(server):
        await create(server, id="ada")
        await say(server, "ada", LONG)
        archive = await exported(server, "ada")
        server.persistence.in_thread = server.persistence._writes.in_thread = slowly  # type: ignore[assignment]
        await delete(server.app, "ada")
        back = await brought(server, "ada", archive)
        await trio.sleep(100)
        second = await say(server, "ada", "two")

    assert back.status == 201
    assert (second["cache"]["source"], second["cache"]["cause"]) == ("disk", None)


async def test_who_comes_to_another_server_goes_on_as_it_would_have_here(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as here:
        await create(here, id="ada", system="Be brief.")
        await say(here, "ada", LONG)
        archive = await exported(here, "ada")
        stayed = await say(here, "ada", "two")
    async with running(with_disk()) as there:
        await brought(there, "eve", archive)
        went = await say(there, "eve", "two")

    assert (went["text"], went["usage"]) == (stayed["text"], stayed["usage"])
    assert went["cache"]["source"] == "disk"


async def test_who_was_imported_is_there_after_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive, files = await an_archive(), MemoryFiles()
    async with running(with_disk(files)) as server:
        await brought(server, "ada", archive)
    async with running(with_disk(files)) as server:
        after = await say(server, "ada", "two")

    assert (after["cache"]["source"], after["cache"]["cause"]) == ("disk", None)


async def test_who_is_recognised_by_what_it_says_is_recognised_elsewhere(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """In the very tokens it was said in: no agent is named, and the conversation is told back."""
    asked = {"role": "user", "content": LONG}
    async with running(with_disk()) as here:
        said = (await post(here.app, "/v1/chat/completions", openai_body(messages=[asked]))).json[
            "choices"
        ][0]["message"]  # type: ignore[index]
        [agent] = await ids(here)
        archive = await exported(here, agent)
    async with running(with_disk(trust=ImportTrust.SHARED)) as there:
        await brought(there, agent, archive)
        call = await post(
            there.app,
            "/v1/chat/completions",
            openai_body(messages=[asked, said, {"role": "user", "content": "two"}]),
        )
        assert await ids(there) == [agent]

    assert call.answer_headers["x-semantic-cache"].split("; ")[1:] == ["source=disk"]


async def test_an_export_has_the_last_turn_also_while_others_work(
    autojump_clock: trio.testing.MockClock,
) -> None:
    runner = FakeRunner(seconds_per_step=0.1)
    async with (
        running(served(runner, disk_bytes=DISK, files=MemoryFiles())) as server,
        trio.open_nursery() as nursery,
    ):
        for name in ("ada", "eve"):
            await create(server, id=name)
        nursery.start_soon(lambda: say(server, "eve", "y" * 100, max_tokens=1000))
        first = await say(server, "ada", LONG)
        archive = await exported(server, "ada")
        assert (await view(server, "eve"))["state"] == "live"
        await delete(server.app, "ada")
        await brought(server, "ada", archive)
        second = await say(server, "ada", "two")
        nursery.cancel_scope.cancel()

    assert (
        second["usage"]["cached_tokens"]
        >= first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    )


async def test_an_agent_that_has_said_nothing_travels_too(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as server:
        await create(server, id="ada", system="Be brief.", tools=[{"name": "look"}])
        archive = await exported(server, "ada")
        back = await brought(server, "eve", archive)

    assert (back.status, back.json["messages"], back.json["has_tools"], back.json["tokens"]) == (
        201,
        1,
        True,
        0,
    )


async def test_an_export_is_a_file_with_a_name(autojump_clock: trio.testing.MockClock) -> None:
    async with running(with_disk()) as server:
        await create(server, id="ada")
        call = await get(server.app, "/v1/agents/ada/export")

    assert call.answer_headers["content-type"] == "application/x-tar"
    assert call.answer_headers["content-disposition"] == 'attachment; filename="ada.tar"'


async def test_files_on_disk_travel_over_sockets_whatever_their_size(tmp_path: Path) -> None:
    """In more pieces than one, and larger than a body may be."""
    one, other = (
        with_disk(ModelFiles(tmp_path / name, "fake", "tiny"), HttpSettings(max_body_bytes=10_000))
        for name in ("one", "other")
    )
    one.persistence.in_thread = other.persistence.in_thread = trio.to_thread.run_sync
    async with (
        listening(one) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=20) as client,
    ):
        await client.post("/agents", json={"id": "ada"})
        await client.post(
            "/agents/ada/generate", json={"message": LONG * 5, "max_tokens": 3, "temperature": 0}
        )
        archive = (await client.get("/agents/ada/export")).content
    async with (
        listening(other) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/v1", timeout=20) as client,
    ):

        async def pieces() -> object:
            for at in range(0, len(archive), 1000):
                yield archive[at : at + 1000]

        back = await client.post("/agents/ada/import", content=pieces())  # of undeclared length
        turn = (
            await client.post("/agents/ada/generate", json={"message": "two", "max_tokens": 3})
        ).json()

    assert len(archive) > 60_000
    assert (back.status_code, turn["cache"]["source"]) == (201, "disk")
    assert begun_in(tmp_path) == []


def begun_in(directory: Path) -> list[Path]:
    return list(directory.rglob(".tmp*"))


async def test_the_command_line_sends_an_agent_to_the_server_that_has_the_directory(
    tmp_path: Path,
) -> None:
    """What is told against it comes to who sends it, though the server does not read to the end."""
    spec = attrs.evolve(ATTENTION_ONLY, fingerprint="ab" * 32)
    files = ModelFiles(tmp_path / "cache", spec.fingerprint, "tiny")
    server = served(
        FakeRunner(spec=spec), HttpSettings(api_key="hush"), disk_bytes=DISK, files=files
    )
    server.persistence.in_thread = trio.to_thread.run_sync

    def command(*arguments: str) -> Result:
        return CliRunner().invoke(
            main,
            ["agents", "--cache-dir", str(tmp_path / "cache"), *arguments],
            env={"SEMANTIC_API_KEY": "hush"},
        )

    archive = str(tmp_path / "ada.tar")
    asked = (("export", "ada", archive), ("import", archive), ("import", archive, "--as", "eve"))
    async with (
        listening(server) as port,
        httpx.AsyncClient(headers={"x-api-key": "hush"}, timeout=20) as client,
    ):
        ada, eve = (f"http://127.0.0.1:{port}/v1/agents/{name}" for name in ("ada", "eve"))
        with CacheLock(tmp_path / "cache", f"pid 7, tiny on http://127.0.0.1:{port}"):
            await client.post(f"http://127.0.0.1:{port}/v1/agents", json={"id": "ada"})
            await client.post(f"{ada}/generate", json={"message": LONG * 5, "max_tokens": 3})
            await client.post(f"{ada}/close")
            done = [await trio.to_thread.run_sync(command, *what) for what in asked]
            turn = (
                await client.post(f"{eve}/generate", json={"message": "two", "max_tokens": 3})
            ).json()

    assert [one.exit_code for one in done] == [0, 2, 0], [one.output + one.stderr for one in done]
    assert done[1].stderr.endswith("says: an agent ada exists\n")
    assert turn["cache"]["cause"] is None


async def test_what_comes_makes_room_among_what_is_there(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive = await an_archive()
    async with running(with_disk(disk_bytes=40_000)) as server:
        for name in ("a", "b", "c"):
            await create(server, id=name)
            await say(server, name, name * 200)
        back = await brought(server, "ada", archive)
        second = await say(server, "ada", "two")
        used = server.engine.memory.disk.used

    assert back.status == 201
    assert (second["cache"]["source"], second["cache"]["cause"]) == ("disk", None)
    assert used <= 40_000
    assert server.persistence.traffic.evicted


async def test_of_what_is_too_much_for_the_disk_the_beginning_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    archive = await an_archive(message="x" * 2000)  # 70 KB of blocks
    async with running(with_disk(disk_bytes=60_000)) as server:
        await brought(server, "ada", archive)
        second = await say(server, "ada", "two")

    assert server.persistence.traffic.evicted
    assert (second["cache"]["source"], second["cache"]["cause"]) == ("disk", "evicted")
    assert second["cache"]["reused"] > 500


async def test_the_tokens_in_which_it_was_said_come_too_where_they_are_not_known(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as here:
        await create(here, id="ada")
        await say(here, "ada", LONG)
        said, archive = (
            here.persistence.memory.token_histories.of_agent("ada"),
            await exported(here, "ada"),
        )
    async with running(with_disk(trust=ImportTrust.SHARED)) as there:
        await brought(there, "ada", archive)
        await brought(there, "eve", archive)
        found = [there.persistence.memory.token_histories.of_agent(name) for name in ("ada", "eve")]

    assert said
    assert found == [said, ()], "what is known is not replaced by what somebody brings"


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
