"""Memory comes back from disk, and requests wait for it."""

import random

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.domain.admission import MAX_RECALLS
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import WORTH_READING, Memory
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.unit.cache_specs import GLOBAL, of_every_kind
from tests.unit.conftest import StartServer, prompt

BLOCK_BYTES = 8 * 16


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
