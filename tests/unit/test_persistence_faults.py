"""Disks that are full, slow, read-only, damaged or gone: serving goes on, answers stay right, and
nothing is lost that need not be.
"""

import attrs
import pytest
import trio
from structlog.testing import capture_logs
from trio.testing import MockClock

from semantic_trio.application.persistence import LONGEST_PAUSE_SECONDS
from semantic_trio.domain.allowance import Allowance
from semantic_trio.domain.chain import pack
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.unit.cache_specs import SPECS
from tests.unit.conftest import StartServer, prompt
from tests.unit.disk_items import item_at, refusing
from tests.unit.test_persistence import files_of
from tests.unit.test_persistence_return import BLOCK_BYTES


def mend(files: MemoryFiles) -> None:
    files.before = lambda method: None


async def test_a_full_disk_is_told_once_and_written_to_when_it_is_not(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_was_deleted_while_nothing_was_written_is_written_again(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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
    assert all(
        block.item in written for block in server.memory.chain(server.memory.agents.get("a"))
    ), "what was in RAM"
    assert server.memory.disk.missing(server.files.index()) == []
    server.memory.audit()
    await server.end()


async def test_what_was_given_up_while_the_disk_was_full_is_not_in_the_record(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_deleting_goes_on_while_nothing_can_be_written(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_cannot_be_deleted_holds_nothing_up(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_could_not_be_deleted_and_is_there_again_stays(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_the_file_system_keeps_what_others_need(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(MemoryFiles(free=1_000_000), floor_bytes=995_000)
    await server.said(prompt(100), agent="a")
    await trio.sleep(10)
    assert (
        "1000000 bytes are free on the disk, and 995000 are to stay so"
        in server.persistence.refused
    )

    server.files.free = 2_000_000
    await trio.sleep(LONGEST_PAUSE_SECONDS)

    assert files_of(server.files) == (7, 0, 1)


async def test_no_more_is_written_in_a_day_than_allowed(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(
        runner=FakeRunner(spec=SPECS["hybrid"]), allowance=Allowance(30_000)
    )
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


async def test_who_spares_writes_leaves_out_what_no_turn_has_ended_with(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_the_end_of_who_was_used_least_goes_first(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(disk=52_000)
    histories = {
        agent: await server.said(prompt(200, salt=salt), agent=agent)
        for agent, salt in (("old", 0), ("new", 50))
    }
    await server.settle()
    await server.said(prompt(600, salt=100), agent="large")
    await server.end()
    assert server.memory.disk.used <= 52_000

    again = await start_server(server.files)

    assert 0 < (await again.reuse((*histories["old"], 1), agent="old")).tokens < 209
    assert (await again.reuse((*histories["new"], 1), agent="new")).tokens == 209
    assert server.persistence.traffic.evicted > 0


async def test_an_agent_larger_than_the_disk_keeps_its_beginning(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(disk=40_000)
    history = await server.said(prompt(1000), agent="a")
    await server.settle()
    await server.said((*history, 1, 2, 3), agent="a")
    await server.end()

    again = await start_server(server.files)

    assert (await again.reuse((*history, 1), agent="a")).tokens > 300


async def test_what_is_pinned_stays_on_disk(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(disk=40_000)
    history = await server.said(prompt(200), agent="pinned")
    server.memory.pin(server.memory.agents.get("pinned"))
    for salt in range(50, 100, 10):
        await server.said(prompt(200, salt=salt), agent=f"a{salt}")
        await server.settle()
    await server.end()

    again = await start_server(server.files)

    assert (await again.reuse((*history, 1), agent="pinned")).tokens == 209


async def test_where_everything_is_pinned_nothing_more_is_written(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    server = await start_server(disk=24_000)
    await server.said(prompt(200), agent="pinned")
    server.memory.pin(server.memory.agents.get("pinned"))
    await server.settle()

    await server.said(prompt(600, salt=9), agent="b")
    await trio.sleep(10)

    assert server.persistence.refused == "pinned agents take all 24000 bytes of the disk budget"
    assert server.memory.disk.used <= 24_000
    server.memory.audit()


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "damaged"])
async def test_what_is_damaged_is_put_aside_and_computed_again(
    start_server: StartServer, autojump_clock: MockClock, is_gone: bool
) -> None:
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

    assert result.finished.reuse == Reuse(80, 211, ReuseSource.DISK, MissCause.CORRUPT, 129)
    assert result.tokens == (await fresh.submit((*history, 1)).result()).tokens
    assert first.files.put_aside_for == ([] if is_gone else [(broken, "checksum is 0, not 1")])
    assert server.persistence.traffic.damaged == 1
    assert (await server.reuse((*result_of(history, result.tokens), 2), agent="a")).cause is None
    await server.end()
    assert broken in first.files.index(), "it is written again"


def result_of(history: tuple[int, ...], tokens: tuple[int, ...]) -> tuple[int, ...]:
    return (*history, 1, *tokens)


@pytest.mark.parametrize(
    "fault", [OSError("input/output error"), StepFailedError("on fire")], ids=["disk", "device"]
)
async def test_what_cannot_be_brought_back_is_computed_again(
    start_server: StartServer, autojump_clock: MockClock, fault: Exception
) -> None:
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


@pytest.mark.parametrize(
    "names", [("more",), ("tokens", "more"), ()], ids=["unknown", "too much", "nothing"]
)
async def test_content_the_device_does_not_take_is_put_aside(
    start_server: StartServer, autojump_clock: MockClock, names: tuple[str, ...]
) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    wrong = item_at(first, history, 0)
    first.files.write(wrong, dict.fromkeys(names, first.files.read(wrong)["tokens"]))

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert [what for what, _ in first.files.put_aside_for] == [wrong]


async def test_a_block_of_other_tokens_than_its_name_says_is_put_aside(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    tail = next(block for block in first.memory.agents.get("a").held if block.stop == 209)
    first.files.write(item_at(first, history, 0), first.files.read(tail.item))

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert first.files.put_aside_for[0][1] == "is of [1] tokens, not 16"


async def test_who_is_deleted_while_its_damaged_file_is_put_aside_is_gone(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
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


async def test_what_cannot_even_be_put_aside_is_computed_again(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    history = await first.said(prompt(200), agent="a")
    await first.end()
    first.files.write(item_at(first, history, 0), {})
    first.files.before = refusing("put_aside").before

    server = await start_server(first.files)

    assert (await server.reuse((*history, 1), agent="a")).cause is MissCause.CORRUPT
    assert server.memory.disk.is_open


async def test_a_damaged_beginning_that_many_share_costs_each_that_alone(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    histories = [
        await first.said((*prompt(160), *prompt(100, salt=10 * agent)), agent=f"a{agent}")
        for agent in range(1, 4)
    ]
    await first.end()
    server = await start_server(first.files)
    first.files.damage(item_at(first, histories[0], 0))

    turns = [
        await server.reuse((*history, 1), agent=f"a{agent}")
        for agent, history in enumerate(histories, 1)
    ]

    assert [turn.tokens for turn in turns] == [0, 256, 256], (
        "but for their tails, which nothing leads to until they are read again"
    )
    await server.end()


async def test_a_record_whose_tokens_are_not_those_of_its_blocks_is_put_aside(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    await first.said(prompt(100), agent="a")
    await first.end()
    [record] = first.files.agents()
    first.files.write_agent(attrs.evolve(record, history=pack(range(1, 101))))

    server = await start_server(first.files)

    assert list(server.memory.agents) == []
    assert first.files.put_aside_for == [("a", "its tokens are not those of its blocks")]
    await server.end()


async def test_a_record_whose_blocks_are_gone_is_known_by_its_name(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    history = await first.said(prompt(100), agent="a")
    await first.end()
    for item in first.files.index():
        first.files.remove(item)

    with capture_logs() as lines:
        server = await start_server(first.files)
    turn = await server.reuse((*history, 1), agent="a")

    assert [
        (line["agents"], line["tokens"]) for line in lines if line["log_level"] == "warning"
    ] == [(1, 109)]
    assert (turn.tokens, turn.cause, turn.lost_tokens) == (0, MissCause.EVICTED, 109)
    await server.end()


async def test_more_agents_than_a_register_takes_are_left_on_disk(
    start_server: StartServer, autojump_clock: MockClock
) -> None:
    first = await start_server()
    for name in ("x", "y", "z"):
        first.memory.write(first.memory.create(name))
    await first.said(prompt(20), agent="minted")
    await first.end()

    server = await start_server(first.files, max_agents=2)

    assert [agent.id for agent in server.memory.agents] == ["x", "y"]
    await server.end()
    assert len(first.files.agents()) == 4
