"""Agents that leave a server as files and come to another, or back."""

from collections.abc import Callable
from pathlib import Path

import attrs
import httpx
import trio
import trio.testing
from click.testing import CliRunner, Result

from semantic_trio.adapters.disk import CacheLock, ModelFiles
from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.domain.content import ImportTrust
from semantic_trio.entrypoints.cli import main
from semantic_trio.testing import FakeRunner, MemoryFiles
from semantic_trio.testing.runner import ATTENTION_ONLY
from tests.http.agent_archives import DISK, LONG, an_archive, brought, exported, ids, with_disk
from tests.http.agents import create, delete, say, view
from tests.http.serving import get, listening, openai_body, post, running, served

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
