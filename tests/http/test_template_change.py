"""A tokenizer or chat template that changes under remembered conversations: they are read again,
and never in tokens of before.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import structlog.testing

from semantic_trio.domain.chain import unpack
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.testing import ByteCodec, FakeRunner, MemoryFiles
from tests.http.agents import create, delete, do, say, view
from tests.http.serving import Served, get, openai_body, post, running, served

pytestmark = pytest.mark.usefixtures("autojump_clock")

DISK = 1 << 24
LONG = "x" * 200
BEFORE, AFTER = b"user:", b"User:"


class FixedCodec(ByteCodec):
    """The same tokens with another template: it writes a role with a capital letter, but in what is
    `known`.
    """

    fingerprint = "fixed"

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """See `TextCodec.encode_prompt`."""
        prompt = super().encode_prompt(conversation, known)
        old, new = prompt.tokens[: len(known.tokens)], prompt.tokens[len(known.tokens) :]
        return attrs.evolve(prompt, tokens=(*old, *bytes(new).replace(BEFORE, AFTER)))


@asynccontextmanager
async def process(files: MemoryFiles, codec: type[ByteCodec] = ByteCodec) -> AsyncIterator[Served]:
    """A server on these files, which ends with everything on disk."""
    async with running(served(FakeRunner(), disk_bytes=DISK, files=files, codec=codec())) as server:
        yield server
        await server.engine.settle()
        assert await server.persistence.flush(60) == 0
        server.engine.memory.audit()


async def last_turn(server: Served, agent: str) -> dict[str, Any]:
    return (await get(server.app, f"/v1/agents/{agent}/last-turn")).json


async def reused(server: Served, *messages: dict[str, str], **headers: str) -> int:
    """Tokens of a conversation told in Chat Completions that were not computed again."""
    call = await post(
        server.app,
        "/v1/chat/completions",
        openai_body(messages=list(messages), temperature=0),
        **headers,
    )
    assert call.status == 200, call.content
    return int(call.json["usage"]["prompt_tokens_details"]["cached_tokens"])  # type: ignore[index]


async def told(server: Served, text: str, **headers: str) -> list[dict[str, str]]:
    """A conversation of two messages: a text and its answer."""
    question = {"role": "user", "content": text}
    call = await post(
        server.app,
        "/v1/chat/completions",
        openai_body(messages=[question], temperature=0),
        **headers,
    )
    answer: Any = call.json
    return [question, {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}]


NEXT = {"role": "user", "content": "two"}


async def test_an_agent_whose_template_has_changed_is_read_again_and_told_so() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)

    with structlog.testing.capture_logs() as logs:
        async with process(files, FixedCodec) as server:
            first = await say(server, "ada", "two")
            why = await last_turn(server, "ada")
            second = await say(server, "ada", "three")

    [record] = files.agents()
    assert first["cache"]["reused"] == 0
    assert first["cache"]["cause"] == why["cause"] == "template_changed"
    assert (why["left_at"], why["lost_tokens"] > 200) == (0, True)
    assert second["cache"]["cause"] is None
    assert second["cache"]["reused"] > first["usage"]["prompt_tokens"]
    assert BEFORE not in bytes(token % 256 for token in unpack(record.history))
    assert [
        line["agents"]
        for line in logs
        if line["event"].startswith("tokenizer or chat template has changed")
    ] == [1]


async def test_an_agent_whose_template_is_the_same_goes_on_in_its_tokens() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        before = await say(server, "ada", LONG)

    async with process(files) as server:
        after = await say(server, "ada", "two")

    assert after["cache"]["source"] == "disk"
    assert after["cache"]["reused"] > before["usage"]["prompt_tokens"]


async def test_a_new_session_that_tells_the_same_conversation_gets_no_tokens_of_before() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        conversation = await told(server, LONG)

    async with process(files, FixedCodec) as server:
        assert await reused(server, *conversation, NEXT) == 0
        history = b"".join(
            bytes(token % 256 for token in unpack(agent.history))
            for agent in server.engine.memory.agents
            if not agent.last_turn
        )
        assert BEFORE in history, "the agent of before is still listed, with its own history"
        [new] = [agent for agent in server.engine.memory.agents if agent.last_turn]
        assert BEFORE not in bytes(token % 256 for token in unpack(new.history))


async def test_nobody_is_recognised_by_a_history_of_another_template() -> None:
    """Its tokens may be today's tokens of another text."""
    files = MemoryFiles()
    async with process(files) as server:
        await told(server, LONG)
        [before] = [agent.id for agent in server.engine.memory.agents]

    class SameTokens(ByteCodec):
        fingerprint = "same tokens"

    async with process(files, SameTokens) as server:
        await told(server, LONG)
        agents = [agent.id for agent in server.engine.memory.agents]

    assert before in agents
    assert len(agents) == 2


async def test_blocks_are_used_again_whatever_the_template_for_they_are_named_by_tokens() -> None:
    files = MemoryFiles()

    class SameTokens(ByteCodec):
        fingerprint = "same tokens"

    async with process(files) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
    async with process(files, SameTokens) as server:
        after = await say(server, "ada", "two")

    assert after["cache"]["cause"] is None
    assert after["cache"]["reused"] > 200


async def test_warming_an_agent_reads_no_history_of_another_template() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await told(server, LONG, **{"x-agent-id": "eve"})

    async with process(files, FixedCodec) as server:
        warmed = await do(server, "eve", "warm")

    assert warmed.status == 200
    assert warmed.json["tokens"] < len(LONG)  # type: ignore[operator]


async def test_what_nobody_used_meanwhile_is_whole_when_the_template_is_back() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        before = await say(server, "ada", LONG)
        conversation = await told(server, "y" * 200)

    async with process(files, FixedCodec) as server:
        await do(server, "ada", "pin")

    async with process(files) as server:
        after = await say(server, "ada", "two")
        continued = await reused(server, *conversation, NEXT)

    assert after["cache"]["reused"] >= before["usage"]["prompt_tokens"]
    assert continued > 200


async def test_a_fork_of_an_agent_that_does_not_fit_does_not_fit_either() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)

    async with process(files, FixedCodec) as server:
        assert (await do(server, "ada", "fork", id="eve")).status == 201
        turn = await say(server, "eve", "two")

    assert turn["cache"]["cause"] == "template_changed"


async def test_an_agent_that_does_not_fit_is_deleted_with_all_it_has_on_disk() -> None:
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)

    async with process(files, FixedCodec) as server:
        assert (await view(server, "ada"))["disk_bytes"] > 0
        assert await delete(server.app, "ada") == 204

    assert (files.agents(), files.index()) == ([], {})


async def test_an_archive_of_another_template_is_taken_in_and_read_again() -> None:
    async with process(MemoryFiles()) as server:
        await create(server, id="ada", system="Be brief.")
        await say(server, "ada", LONG)
        archive = (await get(server.app, "/v1/agents/ada/export")).content

    async with process(MemoryFiles(), FixedCodec) as server:
        taken = await post(
            server.app, "/v1/agents/ada/import", archive, **{"content-type": "application/x-tar"}
        )
        turn = await say(server, "ada", "two")

    assert taken.status == 201
    assert turn["cache"]["cause"] == "template_changed"


async def test_a_record_that_does_not_say_what_it_was_read_with_is_read_again() -> None:
    """Records of before have no fingerprint."""
    files = MemoryFiles()
    async with process(files) as server:
        await create(server, id="ada")
        await say(server, "ada", LONG)
    [record] = files.agents()
    files.write_agent(attrs.evolve(record, text_fingerprint=""))

    async with process(files) as server:
        conversation = server.state.models[0].token_histories
        assert conversation.of_agent("ada") == ()
        turn = await say(server, "ada", "two")

    assert turn["cache"]["reused"] > 200, "the same text has the same tokens"
