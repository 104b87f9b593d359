"""The engine on the virtual clock: every time is exact."""

import itertools

import pytest
import structlog.testing
import trio
from trio.testing import MockClock

from semantic_trio.domain.errors import InvalidRequestError, OverloadedError, PromptTooLongError
from semantic_trio.domain.generation import Finished, FinishReason, SamplingParams, TokenEvent
from semantic_trio.domain.reuse import MissCause, Reuse
from semantic_trio.domain.step import StepPlan
from semantic_trio.testing import FakeRunner
from tests.unit.conftest import StartEngine, prompt


async def test_a_generation_delivers_its_tokens_and_its_end(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    result = await bench.submit(prompt(8), max_tokens=5).result()

    assert len(result.text) == len(result.tokens) == 5
    new = Reuse(prompt_tokens=8, cause=MissCause.NEW)
    assert result.finished == Finished(
        FinishReason.MAX_TOKENS, "", None, prompt_tokens=8, completion_tokens=5, reuse=new
    )


async def test_who_knows_no_pace_yet_asks_to_be_tried_again_at_once(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(queue_limit=1, max_rows=1)
    for salt in range(2):
        bench.submit(prompt(8, salt))

    with pytest.raises(OverloadedError) as refused:
        bench.submit(prompt(8, 2))

    assert refused.value.retry_after_seconds == 1


async def test_requests_that_arrive_together_read_their_prompts_in_one_step(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    first = bench.submit(prompt(8))
    await trio.sleep(0.005)  # within the window that the first one opened
    second = bench.submit(prompt(9))

    await first.result()
    await second.result()

    assert len(bench.runner.plans[0].prefill) == 2


async def test_an_idle_engine_waits_for_the_window_and_no_longer(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1, look_ahead=False), batch_window_seconds=0.5
    )

    await bench.submit(prompt(8), max_tokens=3).result()

    assert trio.current_time() == pytest.approx(3.5)


async def test_the_window_can_be_changed_while_running(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1, look_ahead=False), batch_window_seconds=0.5
    )
    await bench.submit(prompt(8), max_tokens=1).result()
    before = trio.current_time()
    bench.engine.batch_window_seconds = 0.25

    await bench.submit(prompt(8), max_tokens=1).result()

    assert trio.current_time() - before == pytest.approx(1.25)


async def test_a_row_generates_alone_what_it_generates_among_others(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    alone = [(await bench.submit(prompt(n, n), max_tokens=n).result()).tokens for n in range(1, 9)]
    together = [bench.submit(prompt(n, n), max_tokens=n) for n in range(1, 9)]

    assert [(await g.result()).tokens for g in together] == alone


async def test_a_slow_reader_never_delays_its_neighbours(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=0.05, look_ahead=False), batch_window_seconds=0.001
    )
    bench.submit(prompt(8), max_tokens=100)  # nobody reads this one
    quick = bench.submit(prompt(8), max_tokens=10)

    received = [event async for event in quick.events]

    assert len(received) == 11  # ten tokens and the end
    assert trio.current_time() == pytest.approx(0.501)


async def test_one_long_generation_starves_nobody(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1), max_rows=2)
    long = bench.submit(prompt(8), max_tokens=1000)
    for _ in range(20):
        await bench.submit(prompt(8), max_tokens=3).result()

    assert not long.is_over
    assert trio.current_time() < 20


async def test_a_short_prompt_does_not_wait_for_a_long_one(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_prompt_token=0.01))
    await bench.submit(prompt(100), max_tokens=1).result()  # the pace is known from now on
    long = bench.submit(prompt(4000), max_tokens=1)
    await trio.sleep(1)
    started = trio.current_time()
    await bench.submit(prompt(50), max_tokens=1).result()
    waited = trio.current_time() - started
    await long.result()

    # two undisturbed chunks in flight at most, and its own; the long one takes 40 s
    assert waited < 4


async def test_reading_a_prompt_lengthens_no_step_beyond_the_bound(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=0.1, seconds_per_prompt_token=0.005), max_stall_seconds=0.25
    )
    streams = [bench.submit(prompt(8, i), max_tokens=200) for i in range(4)]
    await trio.sleep(3)
    long = bench.submit(prompt(2700), max_tokens=1)
    await long.result()
    stamps = streams[0].stamps
    gaps = [b - a for a, b in zip(stamps, stamps[1:], strict=False)]

    assert max(gaps) <= 0.1 + 0.25 + 1e-6
    assert len(bench.runner.plans[-1].decode) >= 4


async def test_one_stall_of_the_device_does_not_shrink_the_chunks_after_it(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    runner = FakeRunner(seconds_per_step=0.1, seconds_per_prompt_token=0.005)
    bench = await start_engine(runner, max_stall_seconds=0.25)
    stream = bench.submit(prompt(8), max_tokens=200)
    await trio.sleep(3)
    chunks: list[int] = []

    def stall_once(plan: StepPlan) -> None:
        chunks.extend([plan.prompt_tokens] if plan.prefill else [])
        runner.seconds_per_step = 2.0 if len(chunks) == 10 else 0.1

    runner.before_step = stall_once
    await bench.submit(prompt(2700, 1), max_tokens=1).result()

    assert max(b - a for a, b in itertools.pairwise(stream.stamps)) > 2
    assert min(chunks[10:-1]) >= 0.9 * chunks[8]


async def test_the_log_tells_of_prompts_that_take_long(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.1, seconds_per_prompt_token=0.01))
    with structlog.testing.capture_logs() as lines:
        await bench.submit(prompt(500), max_tokens=150).result()
        await bench.submit(prompt(3500, 1), max_tokens=1).result()
    told = [line for line in lines if line["event"] == "a long prompt is being read"]

    assert [line["prompt_tokens"] for line in told] == [3500] * 3
    assert [round(line["left"], -3) for line in told] == [2000, 1000, 0]


async def test_reading_a_prompt_does_not_hold_up_the_last_token_of_an_answer(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=0.1, seconds_per_prompt_token=0.005), max_stall_seconds=0.25
    )
    await bench.submit(prompt(100), max_tokens=1).result()  # the pace is known from now on
    long = bench.submit(prompt(2700), max_tokens=1)
    stream = bench.submit(prompt(8, 1), max_tokens=10)
    await stream.result()
    gaps = [b - a for a, b in itertools.pairwise(stream.stamps)]

    assert not long.is_over
    assert max(gaps) <= 0.1 + 0.25 + 1e-6


@pytest.mark.parametrize("moment", ["queued", "prefill", "mid-stream"])
async def test_a_closed_generation_leaves_within_one_step(
    start_engine: StartEngine, autojump_clock: MockClock, moment: str
) -> None:
    bench = await start_engine(
        FakeRunner(seconds_per_step=1, seconds_per_prompt_token=0.1), max_rows=1, chunk_tokens=16
    )
    ahead = bench.submit(prompt(8), max_tokens=1) if moment == "queued" else None
    gone = bench.submit(prompt(64), max_tokens=100)
    await trio.sleep({"queued": 0.5, "prefill": 2.5, "mid-stream": 30}[moment])
    steps = len(bench.runner.plans)
    gone.close()
    gone.close()  # closing twice is nothing
    if ahead:
        await ahead.result()
    await trio.sleep(100)

    assert bench.engine.open_generations == 0
    assert not bench.runner.rows
    # the step that closes the row, and one that collects what was in flight
    assert ahead or len(bench.runner.plans) <= steps + 2


async def test_a_closed_generation_delivers_nothing_more(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1))
    generation = bench.submit(prompt(8), max_tokens=50)
    await trio.sleep(10)
    generation.close()
    await trio.sleep(10)

    with pytest.raises(trio.ClosedResourceError):
        await generation.result()


async def test_two_hundred_leave_and_twenty_stay(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=0.01), queue_limit=500)
    alone = (await bench.submit(prompt(20), max_tokens=20).result()).tokens
    survivors = []
    for i in range(220):
        generation = bench.submit(prompt(20), max_tokens=20)
        if i % 11 == 0:
            survivors.append(generation)
        elif i % 3:
            generation.close()
        else:
            await trio.sleep(0.003)
            generation.close()

    assert [(await g.result()).tokens for g in survivors] == [alone] * 20
    await trio.sleep(1)
    assert bench.engine.open_generations == 0
    assert not bench.runner.rows


async def test_the_queue_has_an_end_and_an_honest_hint(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=1, queue_limit=3)
    # about ten seconds: what the hint is made of
    await bench.submit(prompt(8), max_tokens=10).result()
    kept = [bench.submit(prompt(8), max_tokens=10) for _ in range(4)]

    with pytest.raises(OverloadedError) as refused:
        bench.submit(prompt(8))

    assert refused.value.retry_after_seconds in range(30, 61)
    assert [len((await g.result()).tokens) for g in kept] == [10] * 4


async def test_a_prompt_as_long_as_the_context_is_refused_and_one_shorter_fills_it(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(context_length=100)

    with pytest.raises(PromptTooLongError, match="prompt is too long: 100 tokens > 100 maximum"):
        bench.submit(prompt(100))
    result = await bench.submit(prompt(97), max_tokens=1000).result()

    assert result.finished.reason is FinishReason.CONTEXT_FULL
    assert result.finished.completion_tokens == 3


async def test_a_model_that_ends_its_turn_ends_the_generation(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(end_after=4))

    result = await bench.submit(prompt(8), max_tokens=50).result()

    assert result.finished.reason is FinishReason.END_OF_TURN
    assert len(result.text) == 4
    assert result.finished.completion_tokens == 5


async def test_a_stop_string_ends_it_across_tokens_and_is_not_shown(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    whole = (await bench.submit(prompt(8), max_tokens=30).result()).text
    stop = whole[10:14]

    result = await bench.submit(prompt(8), max_tokens=30, stop_strings=("@@", stop)).result()

    assert result.text == whole[: whole.index(stop)]
    assert result.finished.stop_string == stop
    assert result.finished.reason is FinishReason.STOP_STRING


async def test_forced_tokens_are_scored_not_drawn(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()

    result = await bench.submit(prompt(8), max_tokens=6, forced=(101, 102, 103)).result()

    assert result.tokens[:3] == (101, 102, 103)
    assert all(score <= 0 for score in result.logprobs)


async def test_a_preempted_row_is_read_again_and_draws_on_with_its_seed(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    warm = SamplingParams(temperature=1.0)
    bench = await start_engine(max_rows=2)
    calm = (await bench.submit(prompt(8), max_tokens=20, sampling=warm).result()).tokens
    generation = bench.submit(prompt(8), max_tokens=20, sampling=warm)
    for _ in range(7):
        await generation.events.receive()
    sequence = bench.engine._open.sequence(generation)
    assert sequence is not None
    bench.engine.scheduler.preempt(sequence)

    assert (await generation.result()).tokens == calm[7:]


async def test_events_carry_text_that_never_splits_a_character(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    snowman = tuple("a☃b".encode())

    events = [event async for event in bench.submit(prompt(8), max_tokens=5, forced=snowman).events]
    texts = [event.text for event in events if isinstance(event, TokenEvent)]

    assert texts == ["a", "", "", "☃", "b"]


async def test_what_was_given_up_just_now_is_dropped_when_the_engine_has_settled(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine()
    await bench.submit(prompt(100), agent="a").result()
    await bench.engine.settle()
    assert bench.runner.blocks

    bench.engine.memory.delete(bench.engine.memory.agents.get("a"))
    await bench.engine.settle()

    assert bench.runner.blocks == {}


async def test_several_requests_at_once_are_all_taken_or_none(
    start_engine: StartEngine, autojump_clock: MockClock
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1), max_rows=2, queue_limit=3)
    bench.engine.refuse_when_full(5)
    with pytest.raises(InvalidRequestError, match="5 requests"):
        bench.engine.refuse_when_full(6)

    bench.submit(prompt(10), 100)
    bench.engine.refuse_when_full(4)
    with pytest.raises(OverloadedError):
        bench.engine.refuse_when_full(5)
