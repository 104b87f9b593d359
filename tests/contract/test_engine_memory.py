"""Reuse changes nothing: the whole engine on real models, each path through the memory against a
run that remembers nothing.
"""

import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import attrs
import pytest
import trio

from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.application.engine import Engine
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.reuse import Reuse
from semantic_trio.domain.step import Inventory, StepPlan, StepResult
from semantic_trio.testing import ByteDecoder
from tests.contract.conftest import ALIKE
from tests.contract.models import random_runner
from tests.engines import ROOMY, UNBOUND_LIMITS, new_engine, running
from tests.search import examples, sample

pytestmark = pytest.mark.exhaustive

FORCED = tuple((5 * i + 3) % 250 for i in range(20))
# The engine sees windows, states and pages, and not families: gemma3_text has windows, qwen3_next
# states, gpt_oss_paged both kinds of pages.
ALIKE_TO_ENGINES = (*ALIKE, "falcon_h1", "deepseek_v3", "llama_paged")
FAMILIES = sample(
    [
        "llama",
        "qwen2",
        "qwen3",
        "gemma3_text",
        "gpt_oss",
        "falcon_h1",
        "qwen3_next",
        "deepseek_v3",
        "llama_paged",
        "gpt_oss_paged",
        "deepseek_v3_paged",
    ],
    ALIKE_TO_ENGINES,
)


def prompt(length: int, salt: int = 0) -> tuple[int, ...]:
    return tuple((7 * i + 13 * salt + i * i) % 250 for i in range(length))


class Bench:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    async def turn(
        self, tokens: tuple[int, ...], agent: str | None = None, forced: tuple[int, ...] = FORCED
    ) -> tuple[tuple[float, ...], Reuse]:
        """Scores of a known continuation, and what was reused."""
        request = GenerationRequest(
            "r",
            tokens,
            len(forced),
            1,
            SamplingParams(),
            forced=forced,
            agent=agent,
            boundaries=(100,),
        )
        result = await self.engine.submit(request, ByteDecoder()).result()
        return result.logprobs, result.finished.reuse

    async def cold(self, tokens: tuple[int, ...]) -> tuple[float, ...]:
        """The same by an engine that remembers nothing."""
        self.engine.memory.store.evict_all()
        scores, reuse = await self.turn(tokens)
        assert reuse.tokens == 0
        self.engine.memory.store.evict_all()
        return scores


@asynccontextmanager
async def engine_of(family: str, budget: int = ROOMY, rows: int = 4) -> AsyncIterator[Bench]:
    limits = attrs.evolve(UNBOUND_LIMITS, max_rows=rows)
    async with running(new_engine(random_runner(family), limits, budget=budget)) as engine:
        yield Bench(engine)


def close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return len(one) == len(other) and all(
        math.isclose(a, b, abs_tol=3e-4) for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_warm_turn_a_fork_and_a_neighbour_score_as_if_nothing_was_remembered(
    family: str,
) -> None:
    reuse = await compare_joined_and_forked(family, close)

    assert reuse["c"].tokens == 100


async def compare_joined_and_forked(
    family: str, alike: Callable[[Sequence[float], Sequence[float]], bool]
) -> dict[str, Reuse]:
    """Compare the scores of turns that join, fork and leave at once with those of a server that
    remembers nothing. Returns their reuse, by agent.
    """
    after, shared = (
        (*prompt(300), *FORCED, *prompt(10, salt=9)),
        (*prompt(100), *prompt(50, salt=4)),
    )
    results: dict[str, tuple[tuple[float, ...], Reuse]] = {}
    async with engine_of(family) as bench:
        expected, expected_shared = await bench.cold(after), await bench.cold(shared)
        await bench.turn(prompt(300), "a")
        bench.engine.memory.fork(bench.engine.memory.agents.get("a"), "b")

        async def ask(name: str, tokens: tuple[int, ...]) -> None:
            results[name] = await bench.turn(tokens, name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "a", after)
            nursery.start_soon(ask, "b", after)
            nursery.start_soon(ask, "c", shared)

    assert [
        results[name][1].tokens >= least for name, least in (("a", 299), ("b", 299), ("c", 100))
    ] == [True] * 3
    assert [
        alike(results[name][0], one)
        for name, one in (("a", expected), ("b", expected), ("c", expected_shared))
    ] == [True] * 3
    return {name: reuse for name, (_, reuse) in results.items()}


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_a_cancelled_turn_had_read_is_right(family: str) -> None:
    async with engine_of(family) as bench:
        expected = await bench.cold(prompt(700))
        request = GenerationRequest("r", prompt(700), 500, 1, SamplingParams(), boundaries=(300,))
        generation = bench.engine.submit(request, ByteDecoder())
        await generation.events.receive()
        await generation.events.receive()
        generation.close()

        scores, reuse = await bench.turn(prompt(700))

        assert reuse.tokens == 699
        assert close(scores, expected)


# Rows for which there is memory when three of 240 tokens begin to decode. How many rows begin and
# which of them grow beyond it depends on the family: on its windows, states and pages.
TIGHT = (2.3, 2.6, 3.05)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_preempted_turn_ends_with_the_same_scores(family: str) -> None:
    await compare_preempted(family, close)


async def compare_preempted(
    family: str, alike: Callable[[Sequence[float], Sequence[float]], bool]
) -> None:
    """Compare the scores of turns that were preempted with those of turns that never were."""
    forced, preemptions = FORCED * 2, 0
    async with engine_of(family) as roomy:
        expected = [(await roomy.turn(prompt(240, salt=i), forced=forced))[0] for i in range(3)]
        row = roomy.engine.memory.row_bytes(240)
    for rows in TIGHT:
        async with engine_of(family, budget=int(row * rows)) as tight:
            scores = await at_once(tight, 240, forced)
            preemptions += tight.engine.scheduler.preemptions
        assert [alike(scores[i], expected[i]) for i in range(3)] == [True] * 3, rows

    assert preemptions > 0


async def at_once(
    bench: Bench, length: int, forced: tuple[int, ...]
) -> dict[int, tuple[float, ...]]:
    """Scores of three turns that decode beside each other."""
    scores: dict[int, tuple[float, ...]] = {}

    async def ask(i: int) -> None:
        scores[i] = (await bench.turn(prompt(length, salt=i), forced=forced))[0]

    async with trio.open_nursery() as nursery:
        for i in range(3):
            nursery.start_soon(ask, i)
    return scores


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_is_left_of_a_partly_evicted_history_is_right(family: str) -> None:
    async with engine_of(family) as bench:
        expected = await bench.cold((*prompt(700), 5))
        await bench.turn(prompt(700), "a")
        store = bench.engine.memory.store
        leaves = [block for block in store.tree.blocks() if not block.children]
        for block in leaves:
            store.remove(block)
        bench.engine.nudge()

        scores, reuse = await bench.turn((*prompt(700), 5), "a")

        assert 0 < reuse.tokens < 700
        assert close(scores, expected)


async def test_a_device_that_cannot_say_what_it_holds_has_failed_a_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runner = random_runner("llama")

    def fail() -> Inventory:
        raise RuntimeError("lost")

    monkeypatch.setattr(type(runner.batch), "inventory", lambda _: fail())

    with pytest.raises(StepFailedError, match="RuntimeError: lost"):
        await runner.inventory()


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "falcon_h1"])
async def test_after_many_cancels_forks_and_deletes_books_and_device_agree(family: str) -> None:
    chance = random.Random(5)
    async with engine_of(family, budget=8 << 20) as bench:
        memory = bench.engine.memory

        async def meddle(number: int) -> None:
            agent = f"agent{chance.randrange(12)}"
            tokens = (*prompt(chance.randrange(1, 300)), *prompt(30, salt=chance.randrange(5)))
            request = GenerationRequest(
                f"r{number}",
                tokens,
                20,
                1,
                SamplingParams(),
                agent=agent,
                is_ordered=chance.random() < 0.3,
                boundaries=(100,),
            )
            generation = bench.engine.submit(request, ByteDecoder())
            for _ in range(chance.randrange(12)):
                await generation.events.receive()
            generation.close()
            known = memory.agents.find(agent)
            if known is None:
                return
            if chance.random() < 0.3:
                memory.delete(known)
            elif memory.agents.find(f"fork{number % 9}") is None:
                memory.fork(known, f"fork{number % 9}")
            bench.engine.nudge()

        for begin in range(0, examples(200, 4), 10):
            async with trio.open_nursery() as nursery:
                for number in range(begin, begin + 10):
                    nursery.start_soon(meddle, number)
        while not bench.engine.scheduler.is_idle:
            await trio.sleep(0.01)
        held = await bench.engine.runner.inventory()

        assert held == memory.expected()
        assert held.rows == frozenset()


@pytest.mark.parametrize("family", ["llama_paged", "deepseek_v3_paged"])
async def test_agents_with_one_prompt_hold_its_pages_once(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At every step the pool has no more pages than the budget counts, and the common blocks are
    counted once for all agents.
    """
    agents, common, own = 8, 1024, 40
    counted = list[tuple[int, int]]()  # pages in the budget and in the pool, with all rows decoding
    step = MlxRunner.step
    async with engine_of(family, rows=agents) as bench:
        memory, runner = bench.engine.memory, bench.engine.runner
        assert isinstance(runner, MlxRunner)
        assert isinstance(runner.batch.layout, PagedLayout)
        page, pool = memory.spec.block_bytes(), runner.batch.layout.pools[0]

        async def counting(self: MlxRunner, plan: StepPlan) -> StepResult:
            result = await step(self, plan)
            assert pool.used * page <= memory.store.pool.used
            if len(plan.decode) == agents:
                counted.append((memory.store.pool.used // page, pool.used))
            return result

        monkeypatch.setattr(MlxRunner, "step", counting)
        await bench.turn(prompt(common), "first")
        async with trio.open_nursery() as nursery:
            for at in range(agents):
                nursery.start_soon(
                    bench.turn, (*prompt(common), *prompt(own, salt=at + 1)), f"agent-{at}"
                )

        assert counted
        # the partial block is of the answer to the first agent
        expected = common // 256 + 1 + agents
        assert max(counted) == (expected, expected)
        assert memory.store.pool.used == pool.used * page
