"""Memory outlives the process: what is written when, what comes back, and who waits for it."""

import random

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.domain.admission import MAX_RECALLS
from semantic_trio.domain.content import Item, Kind
from semantic_trio.domain.conversation import Conversation, Known, Message, Role, Text
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import WORTH_READING, Memory
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.domain.token_histories import chain, link
from semantic_trio.testing import ATTENTION_ONLY, FakeRunner, MemoryFiles
from tests.unit.conftest import StartServer, prompt

GLOBAL = LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8)
SLIDING = LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=8, window=32)
RECURRENT = LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64)
SPECS = {
    "attention": ATTENTION_ONLY,
    "sliding": ModelCacheSpec("sliding", (GLOBAL, SLIDING), block_tokens=16, row_slack_tokens=32),
    "hybrid": ModelCacheSpec("hybrid", (GLOBAL, RECURRENT), block_tokens=16, row_slack_tokens=32),
    "recurrent": ModelCacheSpec("recurrent", (RECURRENT,), block_tokens=16, row_slack_tokens=32),
}
of_every_kind = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
BLOCK_BYTES = 8 * 16


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


# -------------------------------------------------------------------------------------- coming back


def gaps(stamps: list[float]) -> list[float]:
    return [later - earlier for earlier, later in zip(stamps, stamps[1:], strict=False)]


async def test_what_goes_to_disk_and_comes_back_delays_nobody_else(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(seconds_per_step=0.1))
    server.disks.seconds = {"write": 0.35, "write_agent": 0.35, "read": 0.35}
    neighbour = server.submit(prompt(50, salt=100), 150)
    history = await server.said(prompt(100), 10, agent="a")
    await trio.sleep(5)
    server.memory.store.evict_all()

    turn = await server.reuse((*history, 5, 6), 10, agent="a")
    await neighbour.result()

    assert turn == Reuse(109, 112, ReuseSource.DISK, None)
    assert gaps(neighbour.stamps)[:-1] == pytest.approx([0.1] * 148), (
        "the last one is collected by a plan without work"
    )


async def test_who_waits_for_a_row_is_read_meanwhile(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(seconds_per_step=0.1), max_rows=1)
    history = await server.said(prompt(100), 5, agent="a")
    await server.cool()
    server.disks.seconds["read"] = 1
    busy = server.submit(prompt(50, salt=100), 60)

    turn = server.submit((*history, 5), 1, agent="a")
    await busy.result()
    ended = trio.current_time()
    result = await turn.result()

    assert result.finished.reuse == Reuse(104, 106, ReuseSource.DISK, None)
    assert trio.current_time() - ended < 0.5, "two seconds of reading were over before"


async def test_readers_work_side_by_side_and_not_all_at_once(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    await first.said(prompt(16 * 16), 1, agent="a")
    await first.end()
    second = await start_server(first.files)
    second.disks.seconds["read"] = 1
    started = trio.current_time()

    assert (await second.reuse((*prompt(16 * 16), 1), 1)).tokens == 256

    assert trio.current_time() - started == pytest.approx(4, abs=0.1), "four at a time"
    assert second.persistence.traffic.read_seconds == pytest.approx(4)
    assert (
        second.persistence.traffic.read_tokens / second.persistence.traffic.read_seconds
        == pytest.approx(64)
    )
    assert second.persistence.traffic.read_bytes == 16 * BLOCK_BYTES


async def test_reading_that_took_longer_than_computing_is_told(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    history = await first.said(prompt(100), agent="a")
    await first.end()

    for seconds_per_token, slower in ((0.05, 0), (0.005, 1)):
        server = await start_server(
            first.files,
            seconds_to_compute=lambda tokens, context, pace=seconds_per_token: tokens * pace,
        )
        server.disks.seconds["read"] = 1
        await server.said((*history, 1))
        assert server.persistence.traffic.slower == slower
        server.crash()


async def test_what_does_not_fit_into_ram_is_computed(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """A snapshot that a larger server has written is more than a smaller one lets snapshots
    take.
    """
    heavy = ModelCacheSpec(
        "heavy",
        (GLOBAL, LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=1000)),
        block_tokens=16,
        row_slack_tokens=32,
    )
    first = await start_server(runner=FakeRunner(spec=heavy))
    history = await first.said(prompt(100), agent="a", boundaries=(60,))
    await first.end()
    small, fresh = (
        await start_server(first.files, FakeRunner(spec=heavy), budget=3000),
        await start_server(runner=FakeRunner(spec=heavy)),
    )

    result = await small.submit((*history, 1), agent="a").result()

    assert (result.finished.reuse.tokens, result.finished.reuse.cause) == (0, MissCause.EVICTED)
    assert result.tokens == (await fresh.submit((*history, 1)).result()).tokens
    await small.end()


async def test_a_beginning_that_leaves_no_room_for_the_rest_is_computed(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    await first.said(prompt(60), 4)
    await first.end()
    small, fresh = await start_server(first.files, budget=BLOCK_BYTES * 10), await start_server()
    other = prompt(40) + prompt(small.memory.longest_row - 41, salt=3)

    result = await small.submit(other, 1).result()

    assert result.finished.reuse.tokens == 0
    assert result.tokens == (await fresh.submit(other, 1).result()).tokens
    await small.end()


async def test_who_needs_room_waits_for_the_writer_and_loses_nothing(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(budget=BLOCK_BYTES * 30)
    server.disks.seconds["write"] = 0.5
    histories = [
        await server.said(prompt(196, salt=50 * agent), 5, agent=f"a{agent}") for agent in range(4)
    ]

    turns = [
        await server.reuse((*history, 1), 1, agent=f"a{agent}")
        for agent, history in enumerate(histories)
    ]

    assert [turn.tokens for turn in turns] == [200] * 4
    assert trio.current_time() > 2 * 13 * 0.5, "as long as writing what has to go takes"


async def test_nobody_waits_for_a_disk_that_takes_nothing(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    def refuse(method: str) -> None:
        if method == "write":
            raise OSError("input/output error")

    server = await start_server(MemoryFiles(before=refuse), budget=BLOCK_BYTES * 30)

    for agent in range(4):
        await server.said(prompt(200, salt=50 * agent), agent=f"a{agent}")

    assert trio.current_time() < 3
    assert server.memory.store.evictions > 0
    assert not server.memory.disk.is_open
    server.memory.audit()


async def test_two_who_come_back_where_there_is_room_for_one_come_back_both(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    histories = [await first.said(prompt(300, salt=salt), agent=f"a{salt}") for salt in (0, 100)]
    await first.end()
    second = await start_server(first.files, budget=BLOCK_BYTES * 30)
    second.disks.seconds["read"] = 0.1

    turns = [
        second.submit((*history, 1), agent=agent)
        for history, agent in zip(histories, ("a0", "a100"), strict=True)
    ]

    assert [(await turn.result()).finished.reuse.tokens for turn in turns] == [309, 309]


async def test_who_needs_much_room_is_not_overtaken_for_ever(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(
        runner=FakeRunner(seconds_per_step=0.1), budget=BLOCK_BYTES * 26, max_rows=2
    )
    history = await server.said(prompt(300), agent="a")
    await server.cool()
    quick = [server.submit(prompt(30, salt=salt), 20) for salt in range(40, 44)]
    await trio.sleep(1)

    large = server.submit((*history, 1), 5, agent="a")
    quick += [server.submit(prompt(30, salt=salt), 20) for salt in range(44, 64)]
    result = await large.result()

    assert result.finished.reuse.tokens == 309
    assert sum(one.is_over for one in quick) < 8
    for one in quick:
        await one.result()


async def test_who_runs_is_not_refused_for_who_comes_back(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(seconds_per_step=0.1), budget=BLOCK_BYTES * 30)
    history = await server.said(prompt(150), agent="a")
    await server.cool()
    server.disks.seconds["read"] = 20
    running = server.submit(prompt(50, salt=100), 300)
    await trio.sleep(1)

    turn = server.submit((*history, 1), agent="a")

    assert len((await running.result()).tokens) == 300
    assert server.engine.scheduler.preemptions == 0
    assert (await turn.result()).finished.reuse.tokens >= 128, (
        "what was called off was read again, as often as may be"
    )


async def test_who_gives_up_waiting_for_its_memory_leaves_nothing_behind(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server()
    history = await server.said(prompt(100), agent="a")
    await server.cool()
    server.disks.seconds["read"] = 1
    turn = server.submit((*history, 1), agent="a")
    await trio.sleep(0.5)

    turn.close()
    await trio.sleep(5)

    assert (server.engine.open_generations, server.memory.disk.reading) == (0, set())
    assert (await server.reuse((*history, 1), agent="a")) == Reuse(109, 111, ReuseSource.RAM, None)
    await server.end()


async def test_who_loses_what_came_back_again_and_again_goes_on_without(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(runner=FakeRunner(seconds_per_step=0.1), max_rows=1)
    history = await server.said(prompt(100), agent="a")
    await server.cool()
    server.disks.calls.clear()
    busy = server.submit(prompt(50, salt=100), 1000)
    await trio.sleep(1)
    turn = server.submit((*history, 1), 3, agent="a")
    for _ in range(2 * MAX_RECALLS):
        await trio.sleep(1)
        server.memory.store.evict_all()
        server.engine.scheduler.preempt(next(iter(server.engine.scheduler.batch)))

    busy.close()

    assert len((await turn.result()).tokens) == 3
    assert len(server.disks.named("read")) <= MAX_RECALLS * 7


async def test_what_came_back_for_one_who_waits_is_not_taken_by_who_comes_later(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(
        runner=FakeRunner(seconds_per_step=0.1), budget=BLOCK_BYTES * 34, max_rows=2
    )
    history = await server.said(prompt(200), agent="a")
    await server.cool()
    server.disks.seconds["read"] = 0.2
    busy = server.submit(prompt(100, salt=100), 30)
    await trio.sleep(1)
    server.disks.calls.clear()

    turns = [
        server.submit((*history, 1), agent="a"),
        server.submit(prompt(200, salt=50), agent="b"),
    ]
    reused = [(await turn.result()).finished.reuse.tokens for turn in (busy, *turns)]

    # Files are read in any order, and where only the last 17 tokens are missing they are not waited
    # for.
    assert reused in ([0, 209, 0], [0, 192, 0])
    assert len(server.disks.named("read")) == 14, "once each"


@of_every_kind
@pytest.mark.parametrize("seed", range(12))
async def test_agents_on_disk_come_back_whole_however_slow_disk_and_device_are(
    start_server: StartServer, spec: ModelCacheSpec, seed: int, autojump_clock: MockClock
) -> None:
    """Three agents ask at about the same time where memory holds little more than two."""
    chance = random.Random(seed)
    row, snapshot = Memory(spec, 1 << 30, 512).row_bytes(230), spec.snapshot_bytes(200)
    runner = FakeRunner(spec=spec, seconds_per_step=chance.choice((0.0, 0.01, 1.0)))
    server = await start_server(
        runner=runner, budget=max(int(row * 2.2), 16 * snapshot), readers=chance.choice((1, 4))
    )
    histories = {}
    for salt, name in enumerate("abc"):
        histories[name] = await server.said(prompt(200, salt), agent=name)
        await server.settle()
    await server.cool()
    server.disks.seconds = {
        method: chance.choice((0.0, 0.01, 1.0)) for method in ("read", "write", "write_agent")
    }
    reused: dict[str, int] = {}

    async def ask(name: str) -> None:
        await trio.sleep(chance.choice((0.0, 0.001, 0.5)))
        reused[name] = (
            await server.reuse((*histories[name], *prompt(10, salt=9)), agent=name)
        ).tokens

    async with trio.open_nursery() as nursery:
        for name in histories:
            nursery.start_soon(ask, name)

    # A few tokens that are still to come from disk are computed instead.
    assert {name: 209 - tokens < WORTH_READING for name, tokens in reused.items()} == dict.fromkeys(
        histories, True
    )


async def test_who_begins_as_somebody_did_before_a_restart_is_somebody_else(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """Nobody names them: ids are counted, from 1 in every process, and the second one's must not be
    the first one's.
    """
    first = await start_server()
    history = await first.said(prompt(100))
    await first.said((*history, *prompt(20, 7)))
    await first.end()

    second = await start_server(first.files)
    before = {agent.id for agent in second.memory.agents}
    reuse = await second.reuse(prompt(100))
    await second.settle()

    assert len({agent.id for agent in second.memory.agents} - before) == 1
    assert reuse.tokens == 99
    assert before <= {agent.id for agent in second.memory.agents}
    await second.end()


async def test_the_log_says_what_was_found_or_that_there_is_nothing_yet(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    with capture_logs() as fresh:
        server = await start_server()
    await server.said(prompt(100), 10, agent="a")
    await server.settle()
    with capture_logs() as later:
        await start_server(server.files)

    assert [line["event"] for line in fresh] == ["no memory on disk yet"]
    assert [(line["event"], line["agents"], line["items"]) for line in later] == [
        ("memory found on disk", 1, 7)
    ]


async def test_what_an_agent_has_said_goes_with_it_when_it_is_deleted_and_stays_when_it_makes_room(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server, talks = (
        await start_server(max_agents=2),
        [Conversation((Message(Role.USER, (Text(text),)),)) for text in ("one", "two")],
    )
    for number, agent in enumerate("ab"):
        await server.said(prompt(40, number), agent=agent)
        server.memory.keep_tokens(chain(talks[number]), prompt(40, number), (1,), None, agent)

    server.memory.delete(server.memory.agents.get("a"))
    for agent in "cd":
        await server.said(prompt(40, 9), agent=agent)
    await server.settle()

    later = [chain(attrs.evolve(talk, messages=(*talk.messages, *talk.messages))) for talk in talks]
    assert [
        bool(server.persistence.memory.token_histories.known(digests).draft) for digests in later
    ] == [False, True]
    assert server.persistence.memory.token_histories.of_agent("b") == ()
