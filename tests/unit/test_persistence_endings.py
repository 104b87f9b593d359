"""What is deleted while it is written or read, and how the disk tier ends: flushed, or with an
error.
"""

from collections.abc import Mapping, Sequence

import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.application.threads import PATIENCE_SECONDS
from semantic_trio.domain.chain import pack
from semantic_trio.domain.content import Content, Item
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import FakeRunner
from tests.unit.cache_specs import SPECS
from tests.unit.conftest import StartServer, prompt
from tests.unit.disk_items import item_at, refusing
from tests.unit.test_persistence import files_of
from tests.unit.test_persistence_return import BLOCK_BYTES


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
async def test_who_is_deleted_leaves_nothing_and_takes_nothing_of_others(
    start_server: StartServer, autojump_clock: MockClock, spec: object
) -> None:
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
async def test_who_is_deleted_while_it_is_written_leaves_nothing(
    start_server: StartServer, autojump_clock: MockClock, after: float
) -> None:
    server = await start_server(runner=FakeRunner(spec=SPECS["hybrid"]))
    server.disks.seconds = {"write": 1, "write_agent": 2, "free_bytes": 0.01}
    await server.said((*prompt(100), 1, 2), agent="a", boundaries=(100,))
    await trio.sleep(after)

    server.memory.delete(server.memory.agents.get("a"))
    await server.settle()

    assert files_of(server.files) == (0, 0, 0)
    assert server.memory.disk.used == 0
    await server.end()


async def test_who_is_deleted_while_it_is_read_leaves_nothing_and_is_no_fault(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_is_deleted_is_deleted_also_where_nothing_led_to_it(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    """Its first block was lost, and with it what the memory knew of the others; on disk they are
    still.
    """
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


async def test_a_fork_keeps_on_disk_what_its_parent_gives_up(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_a_flush_waits_until_everything_is_on_disk(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_a_row_takes_over_before_it_is_written_is_written_when_that_ends(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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

    assert [(line["waiting"], line["reason"]) for line in lines] == [
        (waiting, f"no time left after {seconds:.0f} s")
    ]


async def test_a_flush_to_a_disk_that_takes_nothing_is_over_at_once(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(refusing("write"))
    await server.said(prompt(100), agent="a")
    await trio.sleep(1)
    started = trio.current_time()

    with capture_logs() as lines:
        assert await server.persistence.flush(60) == 8

    assert trio.current_time() == started
    assert [line["reason"] for line in lines] == ["[Errno 30] read-only file system"]


async def test_a_step_that_fails_loses_nothing_that_was_to_be_written(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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
    assert (await start_server(server.files)).memory.agents.get("a").held[-1].stop >= 96, (
        "whole blocks at least"
    )
    await server.end()


@pytest.mark.parametrize("what", ["write", "read"])
async def test_a_step_that_fails_while_the_disk_is_at_work_harms_nothing(
    start_server: StartServer, autojump_clock: MockClock, what: str
) -> None:
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
    reuse = (
        (await turn.result()).finished.reuse
        if turn is not None
        else await server.reuse((*history, 1), 3, agent="a")
    )

    assert reuse.tokens == 109
    await server.end()


async def test_nobody_waits_for_a_disk_that_hangs(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(budget=BLOCK_BYTES * 30)
    histories = [
        await server.said(prompt(200, salt=50 * agent), agent=f"a{agent}") for agent in range(3)
    ]
    await server.settle()
    server.memory.store.evict_all()
    server.disks.seconds = {"read": 100_000}
    started = trio.current_time()

    with capture_logs() as lines:
        turns = [
            server.submit((*history, 1), agent=f"a{agent}")
            for agent, history in enumerate(histories)
        ]
        for turn in turns:
            await turn.result()

    assert trio.current_time() - started <= 2 * PATIENCE_SECONDS + 1
    assert [line["reason"] for line in lines if line["log_level"] == "warning"] == [
        "the disk has done nothing for 30 s"
    ]
    server.memory.audit()


async def test_a_disk_that_hung_is_used_again(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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
