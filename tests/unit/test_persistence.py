"""Memory outlives the process: what is written when, what comes back, and who waits for it."""

import pytest
import trio
from trio.testing import MockClock

from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.conversation_digests import chain, link
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.domain.prompt import Known
from semantic_trio.domain.reuse import Reuse, ReuseSource
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.unit.cache_specs import SPECS, of_every_kind
from tests.unit.conftest import StartServer, prompt


def files_of(files: MemoryFiles) -> tuple[int, int, int]:
    """Blocks, snapshots and records."""
    kinds = [item.kind for item in files.index()]
    return kinds.count(Kind.BLOCK), kinds.count(Kind.SNAPSHOT), len(files.agents())


# ------------------------------------------------------------------------------------------ writing


def kind_of(what: object) -> Kind:
    assert isinstance(what, Item)
    return what.kind


async def test_a_turn_writes_its_blocks_its_tail_and_its_record_and_nothing_else(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server()

    await server.said(prompt(100), 10, agent="a")
    await server.settle()

    written = server.disks.named("write")
    assert [kind_of(item) for item in written] == [Kind.BLOCK] * 7, "six whole ones, and the tail"
    assert len(set(written)) == 7
    [record] = server.files.agents()
    assert (record.id, len(record.history) // 4, record.turns) == ("a", 109, 1)
    assert {*server.disks.named("remove"), *server.disks.named("read")} == set()


async def test_snapshots_are_written_before_the_record_that_lists_them(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))

    await server.said((*prompt(60), 1, 2, 3), 5, agent="a", boundaries=(60,))
    await server.settle()

    [record] = server.files.agents()
    assert [position for position, _ in record.snapshots] == [60, 67], (
        "the end of the head and that of the turn"
    )
    names = [name for name, _ in server.disks.calls if name in ("write", "write_agent")]
    assert names == ["write"] * (5 + 2) + ["write_agent"]


async def test_a_short_turn_of_a_long_agent_writes_what_is_new(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    history = await server.said(prompt(1000), 10, agent="a")
    await server.settle()
    before, server.disks.calls = set(server.files.index()), []

    await server.said((*history, *prompt(10, salt=7)), 10, agent="a")
    await server.settle()

    new = server.disks.named("write")
    assert sorted(kind_of(item) for item in new) == [Kind.BLOCK, Kind.BLOCK, Kind.SNAPSHOT], (
        "one whole block, the tail, and the snapshot at the end"
    )
    assert before.isdisjoint(new)
    assert [kind_of(item) for item in server.disks.named("remove")] == [Kind.BLOCK], (
        "the tail they take the place of"
    )


async def test_what_is_superseded_goes_when_the_new_record_is_there_and_not_before(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    history = prompt(100)
    for _ in range(5):
        history = await server.said((*history, 1, 2, 3), 5, agent="a")
        server.disks.calls.clear()
        await server.settle()

    names = [name for name, _ in server.disks.calls if name != "free_bytes"]

    assert names == ["write", "write", "write_agent", "remove", "remove"], (
        "tail and snapshot, record, tail and snapshot"
    )
    [record] = server.files.agents()
    listed = {Item(Kind.SNAPSHOT, key) for _, key in record.snapshots}
    assert [position for position, _ in record.snapshots] == [107, 123, 131, 139], (
        "the first and the last ones"
    )
    assert listed == {item for item in server.files.index() if item.kind is Kind.SNAPSHOT}


async def test_ten_agents_with_one_prompt_store_it_once(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server()

    for number in range(10):
        await server.said((*prompt(320), 200 + number), 1, agent=f"a{number}")
    await server.settle()

    assert files_of(server.files) == (20 + 10, 0, 10)


async def test_what_a_client_hears_late_is_in_the_record_all_the_same(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server()
    said = Conversation((Message(Role.USER, (Text("hi"),)),))
    history = await server.said(prompt(40), agent="a")
    await server.settle()

    server.memory.keep_tokens(chain(said), prompt(40), history[40:], None, "a")
    other = Conversation((Message(Role.USER, (Text("ho"),)),))
    server.memory.keep_tokens(chain(other), prompt(9), (1, 2), None, "nobody")
    await server.settle()

    [record] = server.files.agents()
    assert [len(line.packed) // 4 for line in record.token_histories] == [50]


# ----------------------------------------------------------------------------------------- restarts


@of_every_kind
@pytest.mark.parametrize("agent", ["a", None], ids=["named", "unnamed"])
async def test_who_comes_back_after_a_restart_goes_on_where_it_was(
    start_server: StartServer, autojump_clock: MockClock, spec: ModelCacheSpec, agent: str | None
) -> None:
    first = await start_server(runner=FakeRunner(spec=spec))
    history = await first.said(prompt(200), 10, agent=agent)
    await first.end()
    second, fresh = (
        await start_server(first.files, FakeRunner(spec=spec)),
        await start_server(runner=FakeRunner(spec=spec)),
    )

    result = await second.submit((*history, 5, 6), agent=agent).result()

    assert result.finished.reuse == Reuse(209, 212, ReuseSource.DISK, None)
    assert [one.id for one in second.memory.agents] == [one.id for one in first.memory.agents]
    assert result.tokens == (await fresh.submit((*history, 5, 6)).result()).tokens
    await second.end()


@of_every_kind
async def test_who_asks_the_same_again_after_a_restart_begins_as_late_as_can_be(
    start_server: StartServer, autojump_clock: MockClock, spec: ModelCacheSpec
) -> None:
    """The snapshot before a prompt's last token is not written: it can be as large as thousands of
    tokens, and the turn's end takes its place.
    """
    first = await start_server(runner=FakeRunner(spec=spec))
    await first.said(prompt(200), 10, boundaries=(180,))
    await first.end()
    second, fresh = (
        await start_server(first.files, FakeRunner(spec=spec)),
        await start_server(runner=FakeRunner(spec=spec)),
    )

    result = await second.submit(prompt(200), boundaries=(180,)).result()

    tokens = 180 if spec.needs_snapshots else 199
    assert (result.finished.reuse.tokens, result.finished.reuse.source) == (
        tokens,
        ReuseSource.DISK,
    )
    assert result.tokens == (await fresh.submit(prompt(200)).result()).tokens
    await second.end()


async def test_agents_are_what_they_were_before_a_restart(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    memory, said = first.memory, Conversation((Message(Role.USER, (Text("hi"),)),))
    await first.said(prompt(100), agent="parent")
    memory.fork(memory.agents.get("parent"), "fork")
    memory.pin(memory.agents.get("fork"))
    silent = memory.create("silent")
    silent.conversation = said
    memory.write(silent)
    memory.get_or_create("nobody")
    await first.end()

    second = await start_server(first.files)

    agents = second.memory.agents
    assert {agent.id for agent in agents} == {"parent", "fork", "silent"}, (
        "who has no memory and is not kept need not be known"
    )
    fork, parent = agents.get("fork"), agents.get("parent")
    assert (fork.parent, fork.is_pinned, fork.is_kept, fork.history) == (
        "parent",
        True,
        True,
        parent.history,
    )
    assert (parent.turns, parent.prompt_tokens, parent.is_kept) == (1, 100, False)
    assert second.memory.pins.bytes == 109 * 8
    assert agents.get("silent").conversation == said
    assert fork.held == parent.held
    second.memory.audit()


async def test_the_same_tokens_are_used_again_for_what_was_said(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """A model does not always spell as its tokenizer would."""
    first = await start_server()
    hi, yes, more = (
        Message(role, (Text(text),))
        for role, text in [(Role.USER, "hi"), (Role.ASSISTANT, "yes"), (Role.USER, "more")]
    )
    digests = chain(Conversation((hi,)))
    history = await first.said(prompt(40), 5, agent="a")
    first.memory.keep_tokens(digests, prompt(40), history[40:], link(digests[-1], yes), "a")
    await first.end()

    second = await start_server(first.files)

    assert second.persistence.memory.token_histories.known(
        chain(Conversation((hi, yes, more)))
    ) == Known(2, history)


async def test_who_was_used_last_is_kept_longest_after_a_restart_too(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    for agent in ("x", "y", "x"):
        await first.said(prompt(50, salt=ord(agent)), agent=agent)
        await first.settle()
    first.crash()

    second = await start_server(first.files)
    await second.said(prompt(50), agent="z")
    await second.settle()

    assert [agent.id for agent in second.memory.agents] == ["y", "x", "z"]
    assert [record.id for record in first.files.agents()] == ["y", "x", "z"]


async def test_a_crash_loses_only_what_was_not_written(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.settle()
    first.disks.seconds["write"] = 1
    await first.said((*history, *prompt(100, salt=9)), agent="a")
    await trio.sleep(2.5)
    first.crash()

    second = await start_server(first.files)

    assert second.memory.agents.get("a").tokens == 209
    assert (await second.reuse((*history, *prompt(100, salt=9)), agent="a")).tokens == 240
