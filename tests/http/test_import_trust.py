"""What an archive brings is used by the imported agent and its forks alone, unless archives are
trusted; and so it is with any other salt.
"""

import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio.testing

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.domain.chain import pack, unpack
from semantic_trio.domain.content import AgentRecord, Content, ImportTrust, Kind, TokenHistory
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.ports.cache_files import CacheFiles
from semantic_trio.testing import FakeRunner, MemoryFiles
from semantic_trio.testing.runner import ATTENTION_ONLY
from tests.http.agents import create, delete, do, say, view
from tests.http.serving import Call, Served, anthropic_body, get, openai_body, post, running, served

LONG = "x" * 200
QUESTION = {"role": "user", "content": LONG}
WITH_SNAPSHOTS = ModelCacheSpec(
    "fake",
    (*ATTENTION_ONLY.groups, LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64)),
    block_tokens=ATTENTION_ONLY.block_tokens,
    row_slack_tokens=ATTENTION_ONLY.row_slack_tokens,
)
MakeFiles = Callable[[str], CacheFiles]


def with_disk(
    files: CacheFiles | None = None,
    trust: ImportTrust = ImportTrust.AGENT,
    spec: ModelCacheSpec = ATTENTION_ONLY,
) -> Served:
    server = served(FakeRunner(spec=spec), disk_bytes=1 << 24, files=files or MemoryFiles())
    server.persistence.import_trust = trust
    return server


@pytest.fixture(params=["memory", "directory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> MakeFiles:
    """Files by a name: those of the fake, and those of the real thing."""
    kept: dict[str, CacheFiles] = {}

    def files(name: str) -> CacheFiles:
        return kept.setdefault(
            name,
            MemoryFiles()
            if request.param == "memory"
            else ModelFiles(tmp_path / name, "fake", "tiny"),
        )

    return files


async def exported(server: Served, agent: str) -> bytes:
    call = await get(server.app, f"/v1/agents/{agent}/export")
    assert (call.status, call.is_complete) == (200, True), call.content
    return call.content


async def brought(server: Served, agent: str, archive: bytes) -> None:
    call = await post(
        server.app, f"/v1/agents/{agent}/import", archive, **{"content-type": "application/x-tar"}
    )
    assert call.status == 201, call.content


async def ids(server: Served) -> list[str]:
    return [agent["id"] for agent in (await get(server.app, "/v1/agents")).json["data"]]  # type: ignore[index, attr-defined]


def falsified(content: Content) -> Content:
    """As much content as before, of other tokens."""
    tokens = content["tokens"]
    return {
        **content,
        "tokens": attrs.evolve(
            tokens, data=memoryview(pack(token + 1 for token in unpack(bytes(tokens.data))))
        ),
    }


async def poisoned(
    files: CacheFiles, agent: str = "ada", spec: ModelCacheSpec = ATTENTION_ONLY
) -> bytes:
    """An archive with valid checksums whose first blocks have not the content that their names
    say.
    """
    async with running(with_disk(files, spec=spec)) as server:
        await create(server, id=agent, system="Be brief.")
        await say(server, agent, LONG)
        await exported(server, agent)
        for item in [item for item in files.index() if item.kind is Kind.BLOCK]:
            files.write(item, falsified(files.read(item)))
        return await exported(server, agent)


async def asked_by_a_stranger(server: Served) -> dict[str, Any]:
    await create(server, id="bob", system="Be brief.")
    return await say(server, "bob", LONG)


async def the_truth() -> dict[str, Any]:
    """What a server says that remembers nothing."""
    async with running(with_disk()) as server:
        return await asked_by_a_stranger(server)


# ------------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, WITH_SNAPSHOTS])
async def test_a_poisoned_archive_changes_no_other_answers(
    make: MakeFiles, spec: ModelCacheSpec, autojump_clock: trio.testing.MockClock
) -> None:
    archive, truth = await poisoned(make("source"), spec=spec), await the_truth()
    async with running(with_disk(make("here"), spec=spec)) as server:
        await brought(server, "eve", archive)
        await say(server, "eve", "two")  # its blocks are in RAM
        stranger = await asked_by_a_stranger(server)
        again = await say(server, "eve", "three")
        server.engine.memory.audit()

    assert (stranger["text"], stranger["usage"]["cached_tokens"]) == (truth["text"], 0)
    assert again["cache"]["cause"] is None, "it goes on to use what it has"


async def test_a_trusted_archive_is_used_by_all(
    make: MakeFiles, autojump_clock: trio.testing.MockClock
) -> None:
    """So the poison of these tests is one."""
    archive, truth = await poisoned(make("source")), await the_truth()
    async with running(with_disk(make("here"), ImportTrust.SHARED)) as server:
        await brought(server, "eve", archive)
        stranger = await asked_by_a_stranger(server)

    assert stranger["usage"]["cached_tokens"] > 100
    assert stranger["text"] != truth["text"]


@pytest.mark.parametrize("spec", [ATTENTION_ONLY, WITH_SNAPSHOTS])
async def test_an_imported_agent_and_its_fork_reuse_its_memory_also_after_a_restart(
    make: MakeFiles, spec: ModelCacheSpec, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(with_disk(make("source"), spec=spec)) as server:
        await create(server, id="ada", system="Be brief.")
        first = await say(server, "ada", LONG)
        archive, stayed = await exported(server, "ada"), await say(server, "ada", "two")
    known = first["usage"]["prompt_tokens"] + first["usage"]["completion_tokens"] - 1
    async with running(with_disk(make("here"), spec=spec)) as server:
        await brought(server, "eve", archive)
        await do(server, "eve", "fork", id="fork")
        pinned = await do(server, "eve", "pin")
        turns = [await say(server, name, "two") for name in ("eve", "fork")]
        await do(server, "eve", "close")
        server.engine.memory.audit()
    async with running(with_disk(make("here"), spec=spec)) as server:
        later = [await say(server, name, "three") for name in ("eve", "fork")]
        is_pinned = (await view(server, "eve"))["pinned"]
        server.engine.memory.audit()

    assert min(turn["usage"]["cached_tokens"] for turn in turns) == known
    assert [turn["text"] for turn in turns] == [stayed["text"]] * 2
    assert [turn["cache"]["cause"] for turn in later] == [None, None]
    assert min(turn["usage"]["cached_tokens"] for turn in later) >= known + 5
    assert (pinned.status, is_pinned) == (200, True)


async def test_an_imported_agent_is_used_by_its_name_in_every_api(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as here:
        said = await post(
            here.app,
            "/v1/chat/completions",
            openai_body(messages=[QUESTION]),
            **{"x-agent-id": "ada"},
        )
        archive = await exported(here, "ada")
    message = said.json["choices"][0]["message"]  # type: ignore[index]
    told = [QUESTION, message, {"role": "user", "content": "two"}]
    async with running(with_disk()) as there:
        await brought(there, "eve", archive)
        nobody = await post(there.app, "/v1/chat/completions", openai_body(messages=told))
        eve = await post(
            there.app, "/v1/chat/completions", openai_body(messages=told), **{"x-agent-id": "eve"}
        )

    assert nobody.answer_headers["x-semantic-cache"].startswith("reused=0/")
    assert eve.answer_headers["x-semantic-cache"].split("; ")[1:] == ["source=disk"]


async def test_who_is_recognised_by_what_it_says_is_taken_for_no_stranger(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(with_disk()) as here:
        said = await post(here.app, "/v1/chat/completions", openai_body(messages=[QUESTION]))
        [agent] = await ids(here)
        archive = await exported(here, agent)
    told = [QUESTION, said.json["choices"][0]["message"], {"role": "user", "content": "two"}]  # type: ignore[index]
    async with running(with_disk()) as there:
        await brought(there, agent, archive)
        call = await post(there.app, "/v1/chat/completions", openai_body(messages=told))
        known = await ids(there)

    assert call.answer_headers["x-semantic-cache"].startswith("reused=0/")
    assert len(known) == 2


@pytest.mark.parametrize("trust", ImportTrust)
async def test_an_imported_agent_is_exported_and_imported_again(
    make: MakeFiles, trust: ImportTrust, autojump_clock: trio.testing.MockClock
) -> None:
    archive, turns = await poisoned(make("source")), list[dict[str, Any]]()
    for name in ("one", "two"):
        async with running(with_disk(make(name), trust)) as server:
            await brought(server, "eve", archive)
            turns.append(await say(server, "eve", name))
            archive = await exported(server, "eve")

    assert [turn["cache"]["source"] for turn in turns] == ["disk", "disk"]
    assert [turn["cache"]["cause"] for turn in turns] == [None, None]


async def test_of_two_imports_of_one_archive_neither_uses_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files = MemoryFiles()
    async with running(with_disk()) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
        archive = await exported(server, "ada")
    async with running(with_disk(files)) as server:
        await brought(server, "ada", archive)
        await brought(server, "eve", archive)
        blocks = [set(server.engine.memory.agents.get(name).blocks) for name in ("ada", "eve")]
        await delete(server.app, "ada")
        turn = await say(server, "eve", "two")
        await delete(server.app, "eve")
        await trio.sleep(1)
        left = dict(files.index())

    assert blocks[0]
    assert not blocks[0] & blocks[1]
    assert turn["cache"]["source"] == "disk"
    assert left == {}


# ---------------------------------------------------------------------------------- token histories


async def false_history(trust: ImportTrust, **headers: str) -> tuple[Call, Call]:
    """A conversation that an archive tells in tokens of its own: told by who names the agent or
    does not, and to a server that has no archive.
    """

    def lie(record: AgentRecord) -> AgentRecord:
        return attrs.evolve(
            record,
            token_histories=tuple(
                TokenHistory(pack(t + 1 for t in unpack(line.packed)), line.ends)
                for line in record.token_histories
            ),
        )

    source = MemoryFiles()
    async with running(with_disk(source)) as here:
        said = await post(
            here.app,
            "/v1/chat/completions",
            openai_body(messages=[QUESTION], temperature=0),
            **{"x-agent-id": "ada"},
        )
        await exported(here, "ada")
    archive = b"".join(source.archives.export_agent(lie(next(iter(source.agents())))))
    message = said.json["choices"][0]["message"]  # type: ignore[index]
    told = openai_body(
        messages=[QUESTION, message, {"role": "user", "content": "two"}], temperature=0
    )
    async with running(with_disk(trust=trust)) as there, running(with_disk()) as elsewhere:
        await brought(there, "eve", archive)
        return await post(there.app, "/v1/chat/completions", told, **headers), await post(
            elsewhere.app, "/v1/chat/completions", told
        )


def text_of(call: Call) -> object:
    return call.json["choices"][0]["message"]["content"]  # type: ignore[index]


async def test_the_token_history_of_an_imported_agent_answers_no_stranger(
    autojump_clock: trio.testing.MockClock,
) -> None:
    stranger, truth = await false_history(ImportTrust.AGENT)
    assert text_of(stranger) == text_of(truth)

    stranger, truth = await false_history(ImportTrust.SHARED)
    assert text_of(stranger) != text_of(truth), "a trusted one does"

    eve, truth = await false_history(ImportTrust.AGENT, **{"x-agent-id": "eve"})
    assert text_of(eve) != text_of(truth), "it is the agent's own"


# --------------------------------------------------------------------------------- salts of clients


def chat(salt: str | None) -> tuple[str, dict[str, Any]]:
    return "/v1/chat/completions", openai_body(LONG, cache_salt=salt)


def completion(salt: str | None) -> tuple[str, dict[str, Any]]:
    return "/v1/completions", {"model": "tiny", "prompt": LONG, "max_tokens": 5, "cache_salt": salt}


def message(salt: str | None) -> tuple[str, dict[str, Any]]:
    return "/v1/messages", anthropic_body(LONG, cache_salt=salt)


def response(salt: str | None) -> tuple[str, dict[str, Any]]:
    return "/v1/responses", {
        "model": "tiny",
        "input": LONG,
        "max_output_tokens": 5,
        "cache_salt": salt,
    }


def reused(call: Call) -> int:
    assert call.status == 200, call.content
    return int(call.answer_headers["x-semantic-cache"].split("/")[0].partition("=")[2])


@pytest.mark.parametrize("ask", [chat, completion, message, response])
async def test_requests_share_with_those_of_their_salt_alone(
    ask: Callable[[str | None], tuple[str, dict[str, Any]]], autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner())) as server:
        calls = [
            await post(server.app, *ask(salt)) for salt in ("one", "two", None, "one", "two", None)
        ]
        empty = await post(server.app, *ask(""))
        server.engine.memory.audit()

    assert [reused(call) > 100 for call in calls] == [False] * 3 + [True] * 3
    assert empty.status == 400


async def test_an_agent_is_made_with_a_salt_or_told_one_and_shares_with_those_of_its_salt_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        open_agent, made, told = (
            await create(server),
            await create(server, cache_salt="one"),
            await create(server),
        )
        first = [
            await say(server, open_agent, LONG),
            await say(server, made, LONG),
            await say(server, told, LONG, cache_salt="two"),
        ]
        fork = (await do(server, made, "fork")).json["id"]
        later = [await say(server, agent, "and?") for agent in (open_agent, made, told, fork)]
        strangers = [
            await say(server, await create(server, **salt), LONG)
            for salt in ({}, {"cache_salt": "one"}, {"cache_salt": "two"})
        ]
        other = await say(server, await create(server, cache_salt="three"), LONG)
        empty = await post(server.app, "/v1/agents", {"cache_salt": ""})
        server.engine.memory.audit()

    assert [turn["usage"]["cached_tokens"] > 100 for turn in first] == [False] * 3
    assert [turn["usage"]["cached_tokens"] > 100 for turn in later] == [True] * 4
    assert [turn["usage"]["cached_tokens"] > 100 for turn in strangers] == [True] * 3
    assert other["usage"]["cached_tokens"] == 0
    assert empty.status == 400


async def test_an_agent_that_was_made_with_a_salt_keeps_it_over_a_restart(
    autojump_clock: trio.testing.MockClock,
) -> None:
    files = MemoryFiles()
    async with running(with_disk(files)) as server:
        await create(server, id="ada", cache_salt="one")
        await create(server, id="eve", cache_salt="one")
        await say(server, "eve", LONG)
        await trio.sleep(1)
    async with running(with_disk(files)) as server:
        turns = [await say(server, "ada", LONG), await say(server, await create(server), LONG)]

    assert [turn["usage"]["cached_tokens"] > 100 for turn in turns] == [True, False]


async def test_a_conversation_under_a_salt_goes_on_after_a_restart_and_no_salt_is_written(
    autojump_clock: trio.testing.MockClock,
) -> None:
    salt, files = secrets.token_hex(), MemoryFiles()
    async with running(with_disk(files)) as server:
        said = await post(
            server.app, "/v1/chat/completions", openai_body(messages=[QUESTION], cache_salt=salt)
        )
        await trio.sleep(1)
    told = [QUESTION, said.json["choices"][0]["message"], {"role": "user", "content": "two"}]  # type: ignore[index]
    async with running(with_disk(files)) as server:
        [agent] = server.engine.memory.agents
        calls = [
            await post(
                server.app, "/v1/chat/completions", openai_body(messages=told, cache_salt=one)
            )
            for one in ("other", salt)
        ]
        known = len(server.engine.memory.agents)

    assert [reused(call) > 100 for call in calls] == [False, True]
    assert known == 2, "the second one was recognised"
    assert salt.encode() not in agent.salt
    assert bytes.fromhex(salt) != agent.salt


async def test_who_waits_for_a_beginning_waits_for_one_of_its_salt(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """What is being read is promised to those of the same salt alone."""
    calls = dict[str, list[int]]()
    async with (
        running(served(FakeRunner(seconds_per_step=0.1))) as server,
        trio.open_nursery() as nursery,
    ):

        async def ask(salt: str) -> None:
            calls.setdefault(salt, []).append(reused(await post(server.app, *chat(salt))))

        for salt in ("one", "two", "one", "two"):
            nursery.start_soon(ask, salt)

    assert {salt: sorted(tokens > 100 for tokens in found) for salt, found in calls.items()} == {
        "one": [False, True],
        "two": [False, True],
    }


async def test_tokens_are_counted_as_they_are_read(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        first = await post(server.app, "/v1/messages", anthropic_body(LONG, cache_salt="one"))
        told = [
            QUESTION,
            {"role": "assistant", "content": first.json["content"]},
            {"role": "user", "content": "two"},
        ]
        asked = anthropic_body(messages=told, cache_salt="one")
        counted = await post(
            server.app,
            "/v1/messages/count_tokens",
            {name: asked[name] for name in ("model", "messages", "cache_salt")},
        )
        usage: Any = (await post(server.app, "/v1/messages", asked)).json["usage"]

    assert (
        counted.json["input_tokens"]
        == usage["input_tokens"]
        + usage["cache_read_input_tokens"]
        + usage["cache_creation_input_tokens"]
    )
