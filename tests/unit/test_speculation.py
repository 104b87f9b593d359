"""Which drafts a row gets, and what becomes of an answer that is verified several tokens at a time:
on the virtual clock, without a model.
"""

from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
import trio
from hypothesis import given

from semantic_trio.domain.chain import pack
from semantic_trio.domain.decode import Decoding
from semantic_trio.domain.generation import FinishReason, SamplingParams
from semantic_trio.domain.sequence import Sequence as Row
from semantic_trio.domain.speculation import (
    FIRST_DRAFTS,
    FIRST_PAUSE,
    LONGEST_PAUSE,
    NGRAM,
    PromptLookup,
    Speculation,
)
from semantic_trio.domain.steering import Steering
from semantic_trio.domain.step import Decode, PassSizes, StepPlan
from semantic_trio.testing import FakeRunner, MemoryFiles
from tests.unit.conftest import BUDGET, StartEngine, StartServer

TEXT = tuple(range(100, 120))


def lookup(tried: int = 0) -> PromptLookup:
    """A lookup that has had so many tries, each accepted whole."""
    found = PromptLookup()
    for _ in range(tried):
        found.verified(found._length, found._length, 0, 8)
    return found


def test_what_followed_the_last_tokens_before_is_proposed() -> None:
    assert lookup(2).propose(pack(TEXT + TEXT[3:9]), 0, 50) == TEXT[9:17]


def test_tokens_that_are_sampled_and_not_known_are_skipped() -> None:
    assert lookup(2).propose(pack(TEXT + TEXT[3:9]), 1, 50) == TEXT[10:18]


def test_the_last_of_several_occurrences_counts() -> None:
    tokens = (*TEXT[:5], 1, 2, *TEXT[:5], 3, 4, *TEXT[:5])

    assert lookup().propose(pack(tokens), 0, 50) == (3, 4)


def test_a_row_that_repeats_itself_goes_on_doing_so() -> None:
    assert lookup(1).propose(pack([7] * 9), 1, 50) == (7, 7, 7, 7)
    assert lookup(1).propose(pack([7, 8] * 9), 1, 50) == (8, 7, 8, 7)


@given(st.lists(st.integers(0, 3), max_size=60), st.integers(0, 1))
def test_what_is_proposed_has_followed_the_same_tokens(tokens: list[int], unknown: int) -> None:
    drafts = lookup(2).propose(pack(tokens), unknown, 50)

    ends = [
        end for end in range(NGRAM, len(tokens)) if tokens[end - NGRAM : end] == tokens[-NGRAM:]
    ]
    followed = tokens[ends[-1] :] * 9 if ends else []
    assert drafts == tuple(followed[unknown : unknown + 8])


def test_bytes_that_agree_across_tokens_are_no_occurrence() -> None:
    """0x01010101 shifted by a byte is itself."""
    tokens = (
        0x01000000,
        0x01010101,
        0x01010101,
        0x01010101,
        0x01010101,
        0x00010101,
        5,
        *[0x01010101] * NGRAM,
    )

    assert lookup().propose(pack(tokens[1:]), 0, 50) == (0x00010101, 5)
    assert (
        lookup().propose(
            pack([0x01000000, *[0x01010101] * (NGRAM - 1), 0x00010101, 5, *[0x01010101] * NGRAM]),
            0,
            50,
        )
        == ()
    )


@pytest.mark.parametrize(
    ("tried", "limit", "count"),
    [(0, 50, FIRST_DRAFTS), (1, 50, 4), (2, 50, 8), (5, 50, 8), (5, 3, 3), (5, 0, 0)],
)
def test_more_is_proposed_where_all_is_accepted(tried: int, limit: int, count: int) -> None:
    assert len(lookup(tried).propose(pack(TEXT * 2), 0, limit)) == count


def test_less_is_proposed_where_a_part_is_accepted() -> None:
    found = lookup(2)
    found.verified(8, 3, 40, 8)

    assert len(found.propose(pack(TEXT * 2), 0, 50)) == 3


def test_nothing_is_proposed_for_a_while_where_nothing_is_accepted() -> None:
    found, pauses = PromptLookup(), []
    for _ in range(8):
        found.verified(2, 0, 40, 8)
        pauses.append(
            next(
                more
                for more in range(1000)
                if found.propose(pack([*range(40 + more - NGRAM), *range(NGRAM)]), 0, 50)
            )
        )
    found.verified(2, 1, 40, 8)
    found.verified(2, 0, 40, 8)

    assert pauses == [FIRST_PAUSE, 16, 32, 64, 128, LONGEST_PAUSE, LONGEST_PAUSE, LONGEST_PAUSE]
    assert found._resumes_at == 40 + FIRST_PAUSE


def test_a_pass_is_shared_out_fairly() -> None:
    speculation = Speculation(8, 16)

    assert speculation.shared_out([(1,) * 8, (), (2,) * 8, (3,)]) == [(1,) * 6, (), (2,) * 5, (3,)]
    assert speculation.shared_out([()] * 20) == [()] * 20


@pytest.mark.parametrize(
    ("drafts", "drawn", "accepted"),
    [((), (4,), 0), ((4, 5), (4, 5, 6), 2), ((4, 5), (4, 6, 6), 1), ((4, 5), (9, 5, 6), 0)],
)
def test_drafts_are_accepted_while_they_equal_what_is_drawn(
    drafts: tuple[int, ...], drawn: Sequence[int], accepted: int
) -> None:
    assert Decode(0, 1, drafts).accepted(drawn) == accepted


# ------------------------------------------------------------------------------------------- engine

COPY = tuple(range(100, 180))


def forced(count: int = 60) -> tuple[int, ...]:
    """An answer that repeats its prompt."""
    return COPY[:count]


async def test_an_answer_that_repeats_its_prompt_takes_fewer_steps(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    seconds, speculation = {}, Speculation(8, 32)
    for most, drafting in ((0, Speculation()), (8, speculation)):
        bench = await start_engine(FakeRunner(seconds_per_step=1.0), speculation=drafting)
        began = trio.current_time()
        result = await bench.submit(COPY, 60, forced=forced()).result()
        seconds[most] = trio.current_time() - began
        assert result.tokens == forced()
        assert result.finished.reason is FinishReason.MAX_TOKENS

    assert speculation.drafted == speculation.accepted > 40
    assert seconds[8] < seconds[0] / 3


async def test_an_answer_that_repeats_nothing_takes_as_many_steps(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    seconds = {}
    for most in (0, 8):
        bench = await start_engine(
            FakeRunner(seconds_per_step=1.0), speculation=Speculation(most, 32)
        )
        began = trio.current_time()
        await bench.submit(tuple(range(40)), 100, forced=tuple(range(50, 150))).result()
        seconds[most] = trio.current_time() - began

    assert seconds[8] == seconds[0]


async def test_a_stop_token_among_accepted_drafts_ends_the_answer(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    results = {}
    for most in (0, 8):
        bench = await start_engine(speculation=Speculation(most, 32))
        stop = frozenset({forced()[33]})
        results[most] = await bench.submit(
            COPY, 60, forced=forced(), stop_tokens=stop, agent="a"
        ).result()
        await bench.engine.settle()
        bench.engine.memory.audit()
        assert bench.engine.discrepancies == 0

    assert results[8].tokens == results[0].tokens == forced()[:34]
    assert results[8].finished.reason is FinishReason.END_OF_TURN


async def test_a_stop_string_among_accepted_drafts_ends_the_answer(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    results = {}
    stop = "".join(map(chr, forced()[10:13]))
    for most in (0, 8):
        bench = await start_engine(speculation=Speculation(most, 32))
        results[most] = await bench.submit(COPY, 60, forced=forced(), stop_strings=(stop,)).result()

    assert results[8].text == results[0].text
    assert results[8].finished == results[0].finished
    assert results[8].finished.stop_string == stop


@pytest.mark.parametrize(
    "steered",
    [
        {"sampling": SamplingParams(repetition_penalty=1.1)},
        {"steering": Steering(frequency_penalty=0.5)},
        {"steering": Steering(presence_penalty=0.5)},
    ],
)
async def test_draws_that_look_back_get_no_drafts(
    steered: dict[str, object], autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    bench = await start_engine(speculation=Speculation(8, 32))

    result = await bench.submit(COPY, 60, forced=forced(), **steered).result()

    assert result.tokens == forced()
    assert bench.engine.scheduler.speculation.drafted == 0


async def test_a_biased_answer_gets_drafts(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    bench = await start_engine(speculation=Speculation(8, 32))

    await bench.submit(COPY, 60, forced=forced(), steering=Steering(bias=((5, 1.0),))).result()

    assert bench.engine.scheduler.speculation.accepted > 40


async def test_the_history_of_a_turn_is_that_without_drafts(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    held = {}
    for most in (0, 8):
        bench = await start_engine(speculation=Speculation(most, 32))
        await bench.submit(COPY, 60, forced=forced(), agent="a").result()
        await bench.engine.settle()
        memory = bench.engine.memory
        memory.audit()
        held[most] = (
            bench.runner.blocks,
            [(block.start, bytes(block.packed)) for block in memory.chain(memory.agents.get("a"))],
        )
        assert bench.engine.discrepancies == 0

    assert held[8] == held[0]


async def test_drafts_evict_nothing_and_take_nobodys_row(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    """Where memory is scarce a row drafts no further than its own memory reaches."""
    roomy = await start_engine()
    rows = 2 * roomy.engine.memory.row_bytes(144)
    results, speculation = {}, Speculation(8, 32)
    for most, budget in ((0, BUDGET), (8, rows)):
        bench = await start_engine(speculation=speculation if most else None, budget=budget)
        generations = [
            bench.submit(COPY, 60, forced=forced()),
            bench.submit(COPY[::-1], 60, forced=forced()[::-1]),
        ]
        results[most] = [await one.result() for one in generations]
        bench.engine.memory.audit()
        assert bench.engine.scheduler.preemptions == 0

    assert [one.tokens for one in results[8]] == [one.tokens for one in results[0]]
    assert speculation.accepted > 40


async def test_drafts_do_not_evict_what_others_may_begin_with(
    autojump_clock: trio.testing.MockClock,
    start_engine: StartEngine,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that has filled its memory drafts again once its own next token has made room."""
    decodes, evictions = Decoding.decodes, []

    def watched(decoding: Decoding, rows: list[Row]) -> tuple[Decode, ...]:
        before = decoding.memory.store.evictions
        planned = decodes(decoding, rows)
        evictions.append(decoding.memory.store.evictions - before)
        return planned

    monkeypatch.setattr(Decoding, "decodes", watched)
    roomy = await start_engine()
    bench = await start_engine(
        speculation=Speculation(8, 32), budget=roomy.engine.memory.row_bytes(144)
    )
    for tokens in (COPY[::-1], COPY):
        result = await bench.submit(tokens, 60, forced=tokens[:60]).result()
        assert result.tokens == tokens[:60]

    assert bench.engine.scheduler.speculation.accepted > 60
    assert bench.engine.memory.store.evictions > 0
    assert set(evictions) == {0}


async def test_a_turn_that_is_cancelled_among_drafts_keeps_what_it_has_read(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1.0), speculation=Speculation(8, 32))
    generation = bench.submit(COPY, 60, forced=forced(), agent="a")
    await trio.sleep(6.5)
    generation.close()
    await bench.engine.settle()

    bench.engine.memory.audit()
    assert bench.engine.scheduler.speculation.accepted > 4
    assert bench.engine.discrepancies == 0
    again = await bench.submit(COPY + forced(), 5, agent="a").result()
    assert again.finished.reuse.tokens > len(COPY) + 4


async def test_what_a_row_with_drafts_has_read_comes_back_from_disk(
    autojump_clock: trio.testing.MockClock, start_server: StartServer, start_engine: StartEngine
) -> None:
    files = MemoryFiles()
    first = await start_server(files)
    speculation = first.engine.scheduler.speculation
    speculation.most, speculation.pass_tokens = 8, 32
    history = await first.said(COPY, 60, forced=forced(), agent="a")
    await first.end()

    second = await start_server(files)
    result = await second.submit(history, 20, agent="a").result()
    await second.end()

    assert speculation.accepted > 40
    assert result.finished.reuse.tokens == len(history) - 1
    assert result.tokens == (await (await start_engine()).submit(history, 20).result()).tokens


async def test_a_device_that_takes_no_drafts_gets_none(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    runner = FakeRunner(sizes=PassSizes(rows=8, prompt_tokens=512))
    bench = await start_engine(runner, speculation=Speculation(8, runner.sizes.decode_tokens))

    await bench.submit(COPY, 60, forced=forced()).result()

    assert bench.engine.scheduler.speculation.drafted == 0


async def test_a_device_that_fails_among_drafts_fails_the_answer_alone(
    autojump_clock: trio.testing.MockClock, start_engine: StartEngine
) -> None:
    bench = await start_engine(FakeRunner(seconds_per_step=1.0), speculation=Speculation(8, 32))
    plans: list[StepPlan] = []

    def fail_once(plan: StepPlan) -> None:
        if plan.has_drafts and not plans:
            plans.append(plan)
            raise RuntimeError("on fire")

    bench.runner.before_step = fail_once
    with pytest.raises(Exception, match="on fire"):
        await bench.submit(COPY, 60, forced=forced()).result()

    result = await bench.submit(COPY, 60, forced=forced()).result()
    assert result.tokens == forced()
    bench.engine.memory.audit()
