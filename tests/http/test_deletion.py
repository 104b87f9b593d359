"""What is deleted is gone: from RAM, from disk, and after a restart; and what is not to be stored
was never on disk.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.chain import pack
from semantic_trio.testing import FakeRunner, MemoryResponses
from tests.http.agents import create, delete, do, say
from tests.http.messages import speaking
from tests.http.responses import PATH, body, cached, echoed, respond
from tests.http.serving import Call, Served, anthropic_body, get, openai_body, post, running, served

SECRET = "The password is swordfish. " * 20
OTHER = "Something else altogether. " * 20
DISK = 1 << 24
SETTLED = 5.0  # virtual seconds in which everything that was ordered is written


def with_files(root: Path, responses: MemoryResponses | None = None) -> Served:
    runner = FakeRunner(end_after=4)
    return served(
        runner,
        disk_bytes=DISK,
        files=ModelFiles(root, runner.spec.fingerprint, "tiny"),
        responses=responses,
    )


def is_on_disk(root: Path, text: str) -> bool:
    """True if a file holds a text, or its tokens: the fake codec's are its bytes."""
    forms = (text.strip().encode(), pack(list(text.strip().encode())))
    return any(
        form in file.read_bytes() for file in root.rglob("*") if file.is_file() for form in forms
    )


def files_of_memory(root: Path) -> list[str]:
    return [file.name for file in root.rglob("*.safetensors")]


async def agents_of(server: Served) -> list[str]:
    listed: Any = (await get(server.app, "/v1/agents")).json
    return [agent["id"] for agent in listed["data"]]


async def remove(server: Served, response_id: str) -> Call:
    return await Call(server.app, "DELETE", f"{PATH}/{response_id}").run()


# ------------------------------------------------------------------------------------------- agents

SAID: list[tuple[str, dict[str, object]]] = [
    ("/v1/messages", anthropic_body(SECRET)),
    ("/v1/chat/completions", openai_body(SECRET)),
    ("/v1/completions", {"model": "org/tiny", "prompt": SECRET}),
    (PATH, body(SECRET)),
    (PATH, body(SECRET, prompt_cache_key="codex")),
]


@pytest.mark.parametrize(
    ("path", "request_body"),
    SAID,
    ids=["messages", "chat", "completions", "responses", "a named agent"],
)
async def test_an_agent_that_is_deleted_leaves_nothing(
    path: str,
    request_body: dict[str, object],
    tmp_path: Path,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_files(tmp_path)) as server:
        await post(server.app, path, request_body)
        await trio.sleep(SETTLED)
        was_there = is_on_disk(tmp_path, SECRET)
        statuses = [await delete(server.app, agent) for agent in await agents_of(server)]
        left = files_of_memory(tmp_path)  # when the answer is there, the files are gone
        server.engine.memory.audit()

    async with running(with_files(tmp_path)) as again:
        assert await agents_of(again) == []
    assert (was_there, statuses, left) == (True, [204], [])


async def test_an_agent_that_is_deleted_takes_its_conversation_along(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        await create(server, id="ada", system=SECRET)
        await say(server, "ada", OTHER)
        await trio.sleep(SETTLED)
        was_there = is_on_disk(tmp_path, SECRET), is_on_disk(tmp_path, OTHER)
        await delete(server.app, "ada")

    assert was_there == (True, True)
    assert files_of_memory(tmp_path) == []


# ---------------------------------------------------------------------------------------- responses


async def test_a_response_that_is_deleted_lives_on_in_no_agent(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    responses = MemoryResponses()
    async with running(with_files(tmp_path, responses)) as server:
        first = await respond(server, SECRET)
        await respond(server, "more", previous_response_id=first.id)
        await respond(server, OTHER)
        await trio.sleep(SETTLED)
        [holder, _] = await agents_of(server)
        deleted = await remove(server, first.id)
        left = is_on_disk(tmp_path, SECRET), is_on_disk(tmp_path, OTHER)
        exported = await get(server.app, f"/v1/agents/{holder}/export")
        server.engine.memory.audit()

    async with running(with_files(tmp_path, responses)) as again:
        assert len(await agents_of(again)) == 1
    assert (deleted.status, exported.status) == (200, 404)
    assert left == (False, True), "what others have said stays"


async def test_agents_of_an_earlier_process_know_whose_text_they_hold(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    responses = MemoryResponses()
    async with running(with_files(tmp_path, responses)) as server:
        first = await respond(server, SECRET)
        await respond(server, "more", previous_response_id=first.id, session_id="ada")
        await do(server, "ada", "fork", id="eve")
        await trio.sleep(SETTLED)
    async with running(with_files(tmp_path, responses)) as again:
        before = await agents_of(again)
        await remove(again, first.id)
        after = await agents_of(again), is_on_disk(tmp_path, SECRET)
        again.engine.memory.audit()

    assert len(before) == 3
    assert after == (["eve"], False), "who is kept is there, and remembers nothing"


async def test_a_client_that_sends_items_back_is_found_by_their_ids(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        first = await respond(server, SECRET)
        turns = [
            {"role": "user", "content": SECRET},
            *echoed(first),
            {"role": "user", "content": "more"},
        ]
        await respond(server, turns, session_id="ada")
        await respond(
            server,
            [
                {"type": "item_reference", "id": first.output[0].id},
                {"role": "user", "content": "x"},
            ],
            session_id="eve",
        )
        await trio.sleep(SETTLED)
        before = len(await agents_of(server))
        await remove(server, first.id)
        left = await agents_of(server), is_on_disk(tmp_path, SECRET)

    assert (before, left) == (3, ([], False))


async def test_an_agent_that_is_kept_keeps_what_was_said_to_it_alone(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        await create(server, id="ada", system="Be brief.")
        await say(server, "ada", OTHER)
        first = await respond(server, SECRET, session_id="ada")
        await trio.sleep(SETTLED)
        await remove(server, first.id)
        shown: Any = (await get(server.app, "/v1/agents/ada")).json
        await say(server, "ada", "more")
        await trio.sleep(SETTLED)
        left = is_on_disk(tmp_path, SECRET), is_on_disk(tmp_path, OTHER)
        server.engine.memory.audit()

    assert (shown["messages"], shown["tokens"]) == (3, 0)
    assert left == (False, True)


async def test_turns_that_follow_a_response_when_it_is_deleted_leave_nothing(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """One has a row, one waits for a row, one names its agent and waits for that agent's turn."""
    server = served(
        speaking("Yes, and a lot more.").runner,
        rows=1,
        disk_bytes=DISK,
        files=ModelFiles(tmp_path, "fake", "tiny"),
    )
    async with running(server), trio.open_nursery() as nursery:
        first = await respond(server, SECRET)
        server.runner.seconds_per_step = 0.25
        for fields in ({}, {}, {"session_id": "ada"}):
            request = json.dumps(
                body("more", previous_response_id=first.id, stream=True, **fields)
            ).encode()
            nursery.start_soon(Call(server.app, "POST", PATH, request).run)
        await trio.sleep(1)
        assert server.engine.open_generations == 3
        await remove(server, first.id)
    async with running(server):
        await trio.sleep(SETTLED)
        left = (
            [agent.id for agent in server.engine.memory.agents if agent.history],
            is_on_disk(tmp_path, SECRET),
        )
        server.engine.memory.audit()

    assert left == ([], False)


async def test_a_turn_that_ends_after_its_agent_was_deleted_is_not_in_the_record_of_the_next_of_that_name(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server, trio.open_nursery() as nursery:
        server.runner.seconds_per_step = 0.25
        streaming = Call(
            server.app,
            "POST",
            PATH,
            json.dumps(body(SECRET, stream=True, session_id="ada")).encode(),
        )
        nursery.start_soon(streaming.run)
        await trio.sleep(1)
        await delete(server.app, "ada")
        await create(server, id="ada")
        await trio.sleep(SETTLED)
        token_histories = server.persistence.memory.token_histories.held_bytes
        await say(server, "ada", OTHER)
        await trio.sleep(SETTLED)

    assert (streaming.is_complete, token_histories) == (True, 0)
    assert (is_on_disk(tmp_path, SECRET), is_on_disk(tmp_path, OTHER)) == (False, True)


async def test_what_nobody_has_said_is_not_found(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        assert (await remove(server, "resp_" + "0" * 32)).status == 404


# --------------------------------------------------------------------------------- not to be stored


async def test_what_is_not_to_be_stored_never_reaches_the_disk_and_is_cached_all_the_same(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        first = await respond(server, SECRET, store=False)
        turns = [
            {"role": "user", "content": SECRET},
            *echoed(first),
            {"role": "user", "content": "more"},
        ]
        second = await respond(server, turns, store=False)
        await trio.sleep(SETTLED)
        found = await agents_of(server), files_of_memory(tmp_path)
        server.engine.memory.audit()

    assert found == ([], [])
    assert cached(second) > len(SECRET)


async def test_a_conversation_that_is_no_longer_to_be_stored_is_on_disk_up_to_there(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        first = await respond(server, OTHER)
        second = await respond(server, SECRET, previous_response_id=first.id, store=False)
        await trio.sleep(SETTLED)
        [agent] = await agents_of(server)
        await do(server, agent, "pin")  # writes the record once more
        archive = await get(server.app, f"/v1/agents/{agent}/export")

    assert cached(second) > len(OTHER)
    assert (is_on_disk(tmp_path, OTHER), is_on_disk(tmp_path, SECRET)) == (True, False)
    assert pack(list(OTHER.strip().encode())) in archive.content
    assert pack(list(SECRET.strip().encode())) not in archive.content


async def test_an_agent_that_is_named_remembers_and_is_deleted_by_its_name_or_by_the_response(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_files(tmp_path)) as server:
        await respond(server, SECRET, store=False, prompt_cache_key="codex")
        await delete(server.app, "codex")
        by_name = files_of_memory(tmp_path)
        again = await respond(server, SECRET, store=False, prompt_cache_key="codex")
        await trio.sleep(SETTLED)
        was_there = is_on_disk(tmp_path, SECRET)
        deleted = await remove(server, again.id)

    assert (by_name, was_there, deleted.status, files_of_memory(tmp_path)) == ([], True, 200, [])
