"""Disks that are full, slow, read-only, damaged or gone: serving goes on, answers stay right, and nothing is lost that need not be."""

import errno
from collections.abc import Mapping, Sequence

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.application.persistence import LONGEST_PAUSE_SECONDS
from semantic_trio.application.threads import PATIENCE_SECONDS
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.reuse import MissCause, Reuse, Source
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.unit.conftest import Server, StartServer, prompt
from tests.unit.test_persistence import BLOCK_BYTES, SPECS, files_of


def refusing(*methods: str) -> MemoryFiles:
    """Files of which these methods fail."""

    def refuse(method: str) -> None:
        if method in methods:
            raise OSError(errno.EROFS, "read-only file system")

    return MemoryFiles(before=refuse)


def mend(files: MemoryFiles) -> None:
    files.before = lambda method: None


def item_at(server: Server, history: tuple[int, ...], index: int) -> Item:
    """The block of a history."""
    return Item(Kind.BLOCK, server.memory.run(history).keys[index])


# ------------------------------------------------------------------------------------------------------------------- refused writes


async def test_a_full_disk_is_told_once_and_written_to_when_it_is_not(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(refusing("write"))
    with capture_logs() as lines:
        for salt in range(3):
            await server.said(prompt(100, salt=salt), agent=f"a{salt}")
            await trio.sleep(100)
    refused, is_open = server.persistence.refused, server.memory.disk.is_open

    mend(server.files)
    await trio.sleep(2 * LONGEST_PAUSE_SECONDS)

    assert [line["log_level"] for line in lines] == ["warning"]
    assert ("read-only file system" in refused, is_open) == (True, False)
    assert (server.persistence.refused, server.memory.disk.is_open) == ("", True)
    assert files_of(server.files) == (21, 0, 3), "what is in RAM is written"
    await server.end()


async def test_what_was_deleted_while_nothing_was_written_is_written_again(start_server: StartServer, autojump_clock: MockClock) -> None:
    """As when a directory is deleted under the server, which is found out by the next write."""
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    history = await server.said(prompt(100), agent="a")
    await server.said(prompt(100, salt=9), agent="b")
    await server.settle()
    before = files_of(server.files)
    server.memory.release(server.memory.agents.get("b"))
    for item in list(server.files.index()):
        server.files.remove(item)
    server.files.before = refusing("write").before

    await server.said((*history, 1, 2, 3), agent="a")
    await trio.sleep(1)
    mend(server.files)
    await trio.sleep(2 * LONGEST_PAUSE_SECONDS)

    assert before[0] == 14
    written = server.files.index()
    assert all(block.item in written for block in server.memory.chain(server.memory.agents.get("a"))), "what was in RAM"
    assert server.memory.disk.missing(server.files.index()) == []
    server.memory.audit()
    await server.end()


async def test_what_was_given_up_while_the_disk_was_full_is_not_in_the_record(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(refusing("write"), budget=BLOCK_BYTES * 30)
    for agent in range(3):
        await server.said(prompt(200, salt=50 * agent), agent=f"a{agent}")
    mend(server.files)
    await trio.sleep(LONGEST_PAUSE_SECONDS)
    await server.end()

    again = await start_server(server.files)

    assert {agent.id for agent in again.memory.agents} == {"a0", "a1", "a2"}
    assert (await again.reuse(prompt(200), agent="a0")).cause is MissCause.EVICTED
    assert (await again.reuse(prompt(200, salt=100), agent="a2")).tokens == 199


async def test_deleting_goes_on_while_nothing_can_be_written(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server()
    await server.said(prompt(100), agent="a")
    await server.settle()
    server.files.before = refusing("write").before
    await server.said(prompt(100, salt=9), agent="b")
    await trio.sleep(1)

    with capture_logs() as lines:
        server.memory.delete(server.memory.agents.get("a"))
        await trio.sleep(LONGEST_PAUSE_SECONDS)

    assert files_of(server.files) == (0, 0, 0)
    assert lines == [], "that something was deleted does not mean that something can be written"
    assert not server.memory.disk.is_open


async def test_what_cannot_be_deleted_holds_nothing_up(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server()
    await server.said(prompt(100), agent="a")
    await server.settle()
    server.files.before = refusing("remove", "remove_agent").before

    with capture_logs() as lines:
        server.memory.delete(server.memory.agents.get("a"))
        await server.said(prompt(100, salt=9), agent="b")
        waiting = await server.settle()
        await trio.sleep(5 * LONGEST_PAUSE_SECONDS)
    stuck = files_of(server.files)
    mend(server.files)
    await trio.sleep(2 * LONGEST_PAUSE_SECONDS)

    assert (waiting, stuck, server.memory.disk.is_open) == (0, (14, 0, 2), True)
    assert [line["event"] for line in lines] == ["memory cannot be deleted from disk"]
    assert files_of(server.files) == (7, 0, 1)
    await server.end()


async def test_what_could_not_be_deleted_and_is_there_again_stays(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server()
    await server.said(prompt(100), agent="a")
    await server.settle()
    server.files.before = refusing("remove", "remove_agent").before
    server.memory.delete(server.memory.agents.get("a"))
    await server.settle()

    await server.said(prompt(100), agent="a")
    await server.settle()
    mend(server.files)
    await trio.sleep(2 * LONGEST_PAUSE_SECONDS)

    assert files_of(server.files) == (7, 0, 1)


async def test_the_file_system_keeps_what_others_need(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(MemoryFiles(free=1_000_000), floor_bytes=995_000)
    await server.said(prompt(100), agent="a")
    await trio.sleep(10)
    assert "1000000 bytes are free on the disk, and 995000 are to stay so" in server.persistence.refused

    server.files.free = 2_000_000
    await trio.sleep(LONGEST_PAUSE_SECONDS)

    assert files_of(server.files) == (7, 0, 1)


async def test_no_more_is_written_in_a_day_than_allowed(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]), allowance=Allowance(30_000))
    history = await server.said((*prompt(300), 1, 2), 5, agent="a", boundaries=(300,))
    await server.settle()
    turns = 0
    while not server.persistence.refused:
        turns += 1
        history = await server.said((*history, 1, 2), 5, agent="a")
        await trio.sleep(1)
    written, sparing = server.persistence.traffic.written_bytes, server.memory.disk.is_sparing
    assert turns > 2
    assert (written <= 30_000, sparing) == (True, True)
    await trio.sleep(12 * 3600)
    assert server.persistence.traffic.written_bytes == written

    await trio.sleep(13 * 3600)

    assert (server.persistence.refused, server.memory.disk.is_sparing) == ("", False)
    assert len(server.files.agents()[0].history) // 4 == len(history) - 1
    await server.end()


async def test_who_spares_writes_leaves_out_what_no_turn_has_ended_with(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"], seconds_per_step=1))
    server.memory.disk.is_sparing = True
    given_up = server.submit(prompt(50), 100, agent="a")
    await trio.sleep(10)
    given_up.close()
    await trio.sleep(10)
    assert server.disks.calls == [("_found", None)]

    await server.said((*prompt(60, salt=9), 1, 2), 5, agent="b", boundaries=(60,))
    await server.engine.settle()
    server.memory.disk.is_sparing = False  # as the next write would find
    await server.settle()

    assert [position for position, _ in server.files.agents()[0].snapshots] == [66]


# --------------------------------------------------------------------------------------------------------------------------- budget


async def test_the_end_of_who_was_used_least_goes_first(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(disk=52_000)
    histories = {agent: await server.said(prompt(200, salt=salt), agent=agent) for agent, salt in (("old", 0), ("new", 50))}
    await server.settle()
    await server.said(prompt(600, salt=100), agent="large")
    await server.end()
    assert server.memory.disk.used <= 52_000

    again = await start_server(server.files)

    assert 0 < (await again.reuse((*histories["old"], 1), agent="old")).tokens < 209
    assert (await again.reuse((*histories["new"], 1), agent="new")).tokens == 209
    assert server.persistence.traffic.evicted > 0


async def test_an_agent_larger_than_the_disk_keeps_its_beginning(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(disk=40_000)
    history = await server.said(prompt(1000), agent="a")
    await server.settle()
    await server.said((*history, 1, 2, 3), agent="a")
    await server.end()

    again = await start_server(server.files)

    assert (await again.reuse((*history, 1), agent="a")).tokens > 300


async def test_what_is_pinned_stays_on_disk(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(disk=40_000)
    history = await server.said(prompt(200), agent="pinned")
    server.memory.pin(server.memory.agents.get("pinned"))
    for salt in range(50, 100, 10):
        await server.said(prompt(200, salt=salt), agent=f"a{salt}")
        await server.settle()
    await server.end()

    again = await start_server(server.files)

    assert (await again.reuse((*history, 1), agent="pinned")).tokens == 209


async def test_where_everything_is_pinned_nothing_more_is_written(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(disk=24_000)
    await server.said(prompt(200), agent="pinned")
    server.memory.pin(server.memory.agents.get("pinned"))
    await server.settle()

    await server.said(prompt(600, salt=9), agent="b")
    await trio.sleep(10)

    assert server.persistence.refused == "pinned agents take all 24000 bytes of the disk budget"
    assert server.memory.disk.used <= 24_000
    server.memory.audit()


# -------------------------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "damaged"])
async def test_what_is_damaged_is_put_aside_and_computed_again(start_server: StartServer, autojump_clock: MockClock, is_gone: bool) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    broken = item_at(first, history, 5)
    server, fresh = await start_server(first.files), await start_server()
    if is_gone:
        first.files.remove(broken)
    else:
        first.files.damage(broken)

    result = await server.submit((*history, 1), agent="a").result()

    assert result.finished.reuse == Reuse(80, 211, Source.DISK, MissCause.CORRUPT, 129)
    assert result.tokens == (await fresh.submit((*history, 1)).result()).tokens
    assert first.files.put_aside_for == ([] if is_gone else [(broken, "checksum is 0, not 1")])
    assert server.persistence.traffic.damaged == 1
    assert (await server.reuse((*result_of(history, result.tokens), 2), agent="a")).cause is None
    await server.end()
    assert broken in first.files.index(), "it is written again"


def result_of(history: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[int, ...]:
    return (*history, 1, *tokens)


@pytest.mark.parametrize("fault", [OSError("input/output error"), StepFailedError("on fire")], ids=["disk", "device"])
async def test_what_cannot_be_brought_back_is_computed_again(start_server: StartServer, autojump_clock: MockClock, fault: Exception) -> None:
    """A device that could not take it now may take it the next time."""
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()

    class Failing(FakeRunner):
        async def load(self, items: object) -> None:
            raise fault

    server, fresh = await start_server(first.files, Failing()), await start_server()

    result = await server.submit((*history, 1), agent="a").result()

    assert result.tokens == (await fresh.submit((*history, 1)).result()).tokens
    assert result.finished.reuse.tokens == 0
    assert first.files.put_aside_for == []
    await server.end()


@pytest.mark.parametrize("names", [("more",), ("tokens", "more"), ()], ids=["unknown", "too much", "nothing"])
async def test_content_the_device_does_not_take_is_put_aside(start_server: StartServer, autojump_clock: MockClock, names: tuple[str, ...]) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    wrong = item_at(first, history, 0)
    first.files.write(wrong, dict.fromkeys(names, first.files.read(wrong)["tokens"]))

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert [what for what, _ in first.files.put_aside_for] == [wrong]


async def test_a_block_of_other_tokens_than_its_name_says_is_put_aside(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    tail = next(block for block in first.memory.agents.get("a").held if block.stop == 209)
    first.files.write(item_at(first, history, 0), first.files.read(tail.item))

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert first.files.put_aside_for[0][1] == "is of [1] tokens, not 16"


async def test_who_is_deleted_while_its_damaged_file_is_put_aside_is_gone(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    server = await start_server(first.files)
    first.files.write(item_at(first, history, 0), {})
    server.disks.seconds["put_aside"] = 1
    turn = server.submit((*history, 1), agent="a")
    await trio.sleep(0.5)

    server.memory.delete(server.memory.agents.get("a"))

    assert (await turn.result()).finished.reuse.tokens == 0
    await server.end()
    assert files_of(first.files) == (0, 0, 0)


async def test_what_cannot_even_be_put_aside_is_computed_again(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    first.files.write(item_at(first, history, 0), {})
    first.files.before = refusing("put_aside").before

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert server.memory.disk.is_open


async def test_a_damaged_beginning_that_many_share_costs_each_that_alone(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    histories = [await first.said((*prompt(160), *prompt(100, salt=10 * agent)), agent=f"a{agent}") for agent in range(1, 4)]
    await first.end()
    server = await start_server(first.files)
    first.files.damage(item_at(first, histories[0], 0))

    turns = [await server.reuse((*history, 1), agent=f"a{agent}") for agent, history in enumerate(histories, 1)]

    assert [turn.tokens for turn in turns] == [0, 256, 256], "but for their tails, which nothing leads to until they are read again"
    await server.end()


async def test_a_record_whose_tokens_are_not_those_of_its_blocks_is_put_aside(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    await first.said(prompt(100), agent="a")
    await first.end()
    [record] = first.files.agents()
    first.files.write_agent(attrs.evolve(record, history=pack(range(1, 101))))

    server = await start_server(first.files)

    assert list(server.memory.agents) == []
    assert first.files.put_aside_for == [("a", "its tokens are not those of its blocks")]
    await server.end()


async def test_a_record_whose_blocks_are_gone_is_known_by_its_name(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    history = await first.said(prompt(100), agent="a")
    await first.end()
    for item in first.files.index():
        first.files.remove(item)

    with capture_logs() as lines:
        server = await start_server(first.files)
    turn = await server.reuse((*history, 1), agent="a")

    assert [(line["agents"], line["tokens"]) for line in lines if line["log_level"] == "warning"] == [(1, 109)]
    assert (turn.tokens, turn.cause, turn.lost_tokens) == (0, MissCause.EVICTED, 109)
    await server.end()


async def test_more_agents_than_a_register_takes_are_left_on_disk(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    for name in ("x", "y", "z"):
        first.memory.write(first.memory.create(name))
    await first.said(prompt(20), agent="minted")
    await first.end()

    server = await start_server(first.files, max_agents=2)

    assert [agent.id for agent in server.memory.agents] == ["x", "y"]
    await server.end()
    assert len(first.files.agents()) == 4


# ------------------------------------------------------------------------------------------------------------------------ deleting


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
async def test_who_is_deleted_leaves_nothing_and_takes_nothing_of_others(start_server: StartServer, autojump_clock: MockClock, spec: object) -> None:
    server = await start_server(runner=FakeRunner(spec=spec))  # type: ignore[arg-type]
    shared = prompt(100)
    for agent in ("a", "b"):
        await server.said((*shared, ord(agent), 1, 2), 50, agent=agent, boundaries=(100,))
    await server.settle()
    alone = await start_server(runner=FakeRunner(spec=spec))  # type: ignore[arg-type]
    await alone.said((*shared, ord("b"), 1, 2), 50, agent="b", boundaries=(100,))
    await alone.settle()

    server.memory.delete(server.memory.agents.get("a"))
    await server.settle()

    assert files_of(server.files) == files_of(alone.files)
    assert set(server.files.index()) == set(alone.files.index())
    await server.end()


@pytest.mark.parametrize("after", [0.5, 3.5, 7.5, 9.5, 11.5])
async def test_who_is_deleted_while_it_is_written_leaves_nothing(start_server: StartServer, autojump_clock: MockClock, after: float) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    server.disks.seconds = {"write": 1, "write_agent": 2, "free_bytes": 0.01}
    await server.said((*prompt(100), 1, 2), agent="a", boundaries=(100,))
    await trio.sleep(after)

    server.memory.delete(server.memory.agents.get("a"))
    await server.settle()

    assert files_of(server.files) == (0, 0, 0)
    assert server.memory.disk.used == 0
    await server.end()


async def test_who_is_deleted_while_it_is_read_leaves_nothing_and_is_no_fault(start_server: StartServer, autojump_clock: MockClock) -> None:
    first = await start_server()
    history = await first.said(prompt(100), agent="a")
    await first.end()
    server = await start_server(first.files)
    server.disks.seconds = {"read": 1}
    turn = server.submit((*history, 1), agent="a")
    await trio.sleep(0.5)

    with capture_logs() as lines:
        server.memory.delete(server.memory.agents.get("a"))
        result = await turn.result()
        await server.settle()

    assert result.finished.reuse.tokens == 0
    assert (lines, server.persistence.traffic.damaged) == ([], 0)
    assert files_of(first.files) == (0, 0, 0)
    assert (server.runner.blocks, server.memory.store.pool.used) == ({}, 0)
    await server.end()


async def test_what_is_deleted_is_deleted_also_where_nothing_led_to_it(start_server: StartServer, autojump_clock: MockClock) -> None:
    """Its first block was lost, and with it what the memory knew of the others; on disk they are still."""
    first = await start_server()
    history = await first.said(prompt(100), agent="a")
    await first.said((*prompt(64), *prompt(50, salt=9)), agent="b")
    await first.end()
    server = await start_server(first.files)
    first.files.damage(item_at(first, history, 0))
    submitted = server.submit((*history, 1), 1)
    await trio.sleep(0.001)
    submitted.close()
    await server.settle()

    server.memory.delete(server.memory.agents.get("a"))
    await server.settle()

    kept = set(server.memory.run((*prompt(64), *prompt(50, salt=9))).keys)
    assert {item.key for item in first.files.index()} & set(server.memory.run(history).keys) <= kept


async def test_a_fork_keeps_on_disk_what_its_parent_gives_up(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    history = await server.said(prompt(100), agent="parent")
    await server.settle()
    server.disks.seconds["write_agent"] = 1
    server.memory.fork(server.memory.agents.get("parent"), "fork")
    for _ in range(5):
        await server.said((*history, 1, 2), 3, agent="parent")
    server.memory.delete(server.memory.agents.get("parent"))
    await server.end()

    again = await start_server(server.files, FakeRunner(spec=SPECS["hybrid"]))

    assert (await again.reuse((*history, 5), agent="fork")).tokens == 109
    await again.end()


# -------------------------------------------------------------------------------------------------------------- flushing and failing


async def test_a_flush_waits_until_everything_is_on_disk(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server()
    server.disks.seconds = {"write": 1, "write_agent": 1}
    await server.said(prompt(100), agent="a")
    await server.engine.settle()
    started = trio.current_time()

    with capture_logs() as lines:
        waiting = await server.persistence.flush(60)

    assert waiting == 0
    assert trio.current_time() - started == pytest.approx(8, abs=0.1)
    assert lines == []
    assert files_of(server.files) == (7, 0, 1), "the record is there, and not only on its way"


async def test_what_a_row_takes_over_before_it_is_written_is_written_when_that_ends(start_server: StartServer, autojump_clock: MockClock) -> None:
    class Slow(FakeRunner):
        async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
            await trio.sleep(1)
            return await super().export(items)

    server = await start_server(runner=Slow(seconds_per_step=0.1))
    history = await server.said(prompt(100), agent="a")
    await trio.sleep(0.2)

    turn = server.submit((*history, 1), 30, agent="a")
    await server.persistence.progressed()
    meanwhile = files_of(server.files)
    await turn.result()
    await server.end()

    assert meanwhile == (0, 0, 0)
    assert files_of(server.files) == (9, 0, 1)


@pytest.mark.parametrize(("seconds", "waiting"), [(3.5, 5), (7.5, 1)], ids=["blocks", "record"])
async def test_a_flush_without_time_says_what_is_not_on_disk(
    start_server: StartServer, autojump_clock: MockClock, seconds: float, waiting: int
) -> None:
    server = await start_server()
    server.disks.seconds = {"write": 1, "write_agent": 1}
    await server.said(prompt(100), agent="a")
    await server.engine.settle()

    with capture_logs() as lines:
        assert await server.persistence.flush(seconds) == waiting

    assert [(line["waiting"], line["reason"]) for line in lines] == [(waiting, f"no time left after {seconds:.0f} s")]


async def test_a_flush_to_a_disk_that_takes_nothing_is_over_at_once(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(refusing("write"))
    await server.said(prompt(100), agent="a")
    await trio.sleep(1)
    started = trio.current_time()

    with capture_logs() as lines:
        assert await server.persistence.flush(60) == 8

    assert trio.current_time() == started
    assert [line["reason"] for line in lines] == ["[Errno 30] read-only file system"]


async def test_a_step_that_fails_loses_nothing_that_was_to_be_written(start_server: StartServer, autojump_clock: MockClock) -> None:
    def fail(plan: StepPlan) -> None:
        if plan.close and not failed:
            failed.append(plan)
            raise RuntimeError("on fire")

    failed: list[StepPlan] = []
    server = await start_server(runner=FakeRunner(before_step=fail))
    history = await server.said(prompt(100), agent="a")
    await server.settle()

    assert failed
    assert server.files.agents()[0].history == pack(history[:-1])
    assert (await start_server(server.files)).memory.agents.get("a").held[-1].stop >= 96, "whole blocks at least"
    await server.end()


@pytest.mark.parametrize("what", ["write", "read"])
async def test_a_step_that_fails_while_the_disk_is_at_work_harms_nothing(start_server: StartServer, autojump_clock: MockClock, what: str) -> None:
    failing = list[bool]()

    def fail(plan: StepPlan) -> None:
        if failing and plan.has_work:
            failing.clear()
            raise RuntimeError("on fire")

    server = await start_server(runner=FakeRunner(seconds_per_step=0.1, before_step=fail))
    history = await server.said(prompt(100), agent="a")
    if what == "read":
        await server.cool()
    server.disks.seconds[what] = 1
    turn = server.submit((*history, 1), 3, agent="a") if what == "read" else None
    victim = server.submit(prompt(50, salt=100), 30)
    await trio.sleep(1)

    failing.append(True)
    with pytest.raises(StepFailedError):
        await victim.result()
    reuse = (await turn.result()).finished.reuse if turn is not None else await server.reuse((*history, 1), 3, agent="a")

    assert reuse.tokens == 109
    await server.end()


async def test_nobody_waits_for_a_disk_that_hangs(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server(budget=BLOCK_BYTES * 30)
    histories = [await server.said(prompt(200, salt=50 * agent), agent=f"a{agent}") for agent in range(3)]
    await server.settle()
    server.memory.store.evict_all()
    server.disks.seconds = {"read": 100_000}
    started = trio.current_time()

    with capture_logs() as lines:
        turns = [server.submit((*history, 1), agent=f"a{agent}") for agent, history in enumerate(histories)]
        for turn in turns:
            await turn.result()

    assert trio.current_time() - started <= 2 * PATIENCE_SECONDS + 1
    assert [line["reason"] for line in lines if line["log_level"] == "warning"] == ["the disk has done nothing for 30 s"]
    server.memory.audit()


async def test_a_disk_that_hung_is_used_again(start_server: StartServer, autojump_clock: MockClock) -> None:
    server = await start_server()
    server.disks.seconds = {"write": 100}
    history = await server.said(prompt(100), agent="a")
    await trio.sleep(90)
    assert not server.memory.disk.is_open

    server.disks.seconds.clear()
    await trio.sleep(100)

    assert (server.memory.disk.is_open, server.memory.disk.is_stuck) == (True, False)
    await server.cool()
    assert (await server.reuse((*history, 1), agent="a")).tokens == 109
    await server.end()
