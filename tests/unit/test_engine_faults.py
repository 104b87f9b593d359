"""An engine whose device fails or hangs, and one that is drained or has ended."""

import pytest
import trio
from trio.testing import MockClock

from semantic_trio.application.engine import EngineState
from semantic_trio.domain.errors import DrainingError, EngineDeadError, StepFailedError
from semantic_trio.domain.generation import Failed
from semantic_trio.domain.step import BlockKey, Inventory, SaveBlock, StepPlan
from semantic_trio.testing import FakeRunner
from tests.engines import new_engine
from tests.unit.conftest import Bench, StartEngine, prompt


def failing(times: int) -> FakeRunner:
    """A runner whose third step fails, `times` in a row."""
    left = [times]

    def before(plan: StepPlan) -> None:
        if len(runner.plans) >= 3 and left[0]:
            left[0] -= 1
            raise RuntimeError("no memory")

    runner = FakeRunner(seconds_per_step=0.1, before_step=before)
    return runner


async def test_a_failed_step_fails_who_took_part_and_the_engine_goes_on(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(failing(1), max_rows=1)
    hit, spared = bench.submit(prompt(8), max_tokens=20), bench.submit(prompt(8), max_tokens=20)

    with pytest.raises(StepFailedError, match="no memory"):
        await hit.result()
    result = await spared.result()

    assert len(result.tokens) == 20
    assert bench.engine.state is EngineState.RUNNING


async def test_the_state_is_recovering_while_the_runner_is_rebuilt(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    states = []

    class Slow(FakeRunner):
        async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
            states.append(bench.engine.state)
            return await super().reset(keep)

    slow = Slow()
    slow.before_step = failing(1).before_step
    bench = await start_engine(slow)
    slow.before_step = lambda plan: (
        (_ for _ in ()).throw(RuntimeError("once")) if len(slow.plans) == 2 else None
    )
    with pytest.raises(StepFailedError):
        await bench.submit(prompt(8)).result()
    await trio.sleep(1)

    assert states == [EngineState.RECOVERING]
    assert bench.engine.state is EngineState.RUNNING


async def test_three_failures_in_a_row_end_the_engine_with_one_clear_reason(
    autojump_clock: MockClock,
) -> None:
    runner = FakeRunner(before_step=lambda plan: (_ for _ in ()).throw(RuntimeError("dead device")))
    engine = new_engine(runner)
    seen: list[str] = []

    async def ask() -> None:
        for _ in range(3):
            try:
                await Bench(engine, runner).submit(prompt(4)).result()
            except StepFailedError as error:
                seen.append(str(error))

    with pytest.RaisesGroup(EngineDeadError) as ended:
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            nursery.start_soon(ask)

    assert "3 steps in a row failed, the last one with: dead device" in str(
        ended.value.exceptions[0]
    )
    assert len(seen) == 3
    assert engine.state is EngineState.DEAD


async def test_a_step_that_hangs_ends_the_engine_and_fails_who_waits(
    autojump_clock: MockClock,
) -> None:
    runner = FakeRunner(seconds_per_step=float("inf"))
    engine = new_engine(runner)
    with pytest.RaisesGroup(EngineDeadError):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            generation = Bench(engine, runner).submit(prompt(4))

    assert trio.current_time() == pytest.approx(60.01)
    assert isinstance(generation.events.receive_nowait(), Failed)
    with pytest.raises(EngineDeadError):
        Bench(engine, runner).submit(prompt(4))


async def test_passes_that_fail_only_when_they_are_read_count_in_a_row_too(
    autojump_clock: MockClock,
) -> None:
    def before(plan: StepPlan) -> None:
        if plan.decode:  # the prompt's pass has taken off by then, and nothing has landed
            raise RuntimeError("lost in flight")

    runner = FakeRunner(before_step=before)
    engine = new_engine(runner)

    async def ask() -> None:
        for _ in range(4):
            with pytest.raises((StepFailedError, EngineDeadError)):
                await Bench(engine, runner).submit(prompt(4)).result()

    with pytest.RaisesGroup(
        pytest.RaisesExc(EngineDeadError, match="3 steps in a row failed"), flatten_subgroups=True
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            nursery.start_soon(ask)


async def test_a_reset_that_hangs_ends_the_engine(autojump_clock: MockClock) -> None:
    class Stuck(FakeRunner):
        async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
            await trio.sleep_forever()
            return frozenset()

    runner = Stuck(before_step=lambda plan: (_ for _ in ()).throw(RuntimeError("once")))
    engine = new_engine(runner)
    with pytest.RaisesGroup(
        pytest.RaisesExc(EngineDeadError, match="hung while it was being reset")
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            Bench(engine, runner).submit(prompt(4))


async def test_a_device_that_does_not_say_what_it_holds_ends_the_engine(
    autojump_clock: MockClock,
) -> None:
    class Silent(FakeRunner):
        async def inventory(self) -> Inventory:
            await trio.sleep_forever()
            raise AssertionError

    runner = Silent()
    engine = new_engine(runner)
    with pytest.RaisesGroup(
        pytest.RaisesExc(EngineDeadError, match="hung for 60 s when it was asked what it holds")
    ):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            await Bench(engine, runner).submit(prompt(4)).result()


async def test_a_device_that_fails_to_say_what_it_holds_is_rebuilt(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    class Forgetful(FakeRunner):
        fails = True

        async def inventory(self) -> Inventory:
            if self.fails:
                self.fails = False
                raise StepFailedError("once")
            return await super().inventory()

    bench = await start_engine(Forgetful())
    first = (await bench.submit(prompt(8)).result()).tokens
    await trio.sleep(1)

    assert (await bench.submit(prompt(8)).result()).tokens == first
    assert bench.engine.state is EngineState.RUNNING


async def test_a_reset_that_fails_ends_the_engine(autojump_clock: MockClock) -> None:
    class Broken(FakeRunner):
        async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
            raise StepFailedError("gone")

    runner = Broken(before_step=lambda plan: (_ for _ in ()).throw(RuntimeError("once")))
    engine = new_engine(runner)
    with pytest.RaisesGroup(pytest.RaisesExc(EngineDeadError, match="could not be reset: gone")):
        async with trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            Bench(engine, runner).submit(prompt(4))


async def test_draining_lets_the_short_finish_and_fails_the_long_at_the_grace(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    short, endless = bench.submit(prompt(8), max_tokens=5), bench.submit(prompt(8), max_tokens=1000)
    await trio.sleep(1)
    before = trio.current_time()
    await bench.engine.drain(grace_seconds=30)

    assert trio.current_time() - before == pytest.approx(30)
    assert len((await short.result()).tokens) == 5
    with pytest.raises(DrainingError):
        await endless.result()
    with pytest.raises(DrainingError):
        bench.submit(prompt(8))


async def test_a_request_that_fails_before_it_was_taken_is_forgotten(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    busy = bench.submit(prompt(8), max_tokens=100)
    await trio.sleep(5)  # the engine waits for a step
    late, closed = bench.submit(prompt(8)), bench.submit(prompt(8))
    closed.close()
    await bench.engine.drain(grace_seconds=0)
    await trio.sleep(10)

    for generation in (busy, late):
        with pytest.raises(DrainingError):
            await generation.result()
    assert bench.engine.open_generations == 0
    assert not bench.runner.rows


async def test_draining_an_idle_engine_takes_no_time(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    await bench.engine.drain(grace_seconds=30)

    assert trio.current_time() == 0
    assert bench.engine.state is EngineState.DRAINING


async def test_who_waits_for_an_engine_that_has_ended_waits_no_longer(
    nursery: trio.Nursery, autojump_clock: MockClock
) -> None:
    engine = new_engine(FakeRunner())
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as inner:
            await inner.start(engine.run)
            nursery.start_soon(engine.settle)
            scope.cancel()

    await engine.settle()

    assert engine.state is EngineState.DEAD


async def test_a_drain_waits_for_what_is_done_beside_generations(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    async def embed() -> None:
        with bench.engine.at_work():
            await trio.sleep(5)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(embed)
        await trio.sleep(1)
        await bench.engine.drain(30)
        assert trio.current_time() == pytest.approx(5)
    with pytest.raises(DrainingError), bench.engine.at_work():
        pass


async def test_what_is_done_beside_generations_fails_where_a_drain_is_over(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench, failed_at = await start_engine(), list[float]()

    async def embed() -> None:
        with pytest.raises(DrainingError, match="unloaded"), bench.engine.at_work():
            await trio.sleep(50)
        failed_at.append(trio.current_time())

    async with trio.open_nursery() as nursery:
        nursery.start_soon(embed)
        await trio.sleep(1)
        await bench.engine.drain(2, DrainingError(5, "it is unloaded"))

    assert failed_at == [3]


async def test_what_is_done_beside_generations_fails_with_the_engine(
    autojump_clock: MockClock,
) -> None:
    engine = new_engine(FakeRunner())

    async def embed() -> None:
        with pytest.raises(EngineDeadError), engine.at_work():
            await trio.sleep(50)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(embed)
        with trio.move_on_after(2):
            await engine.run()

    assert trio.current_time() == 2
