"""Learning how long steps take."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.domain.pace import (
    FIRST_CHUNK,
    MIN_CHUNK,
    STALLS_IN_A_ROW,
    DecodePace,
    PrefillPace,
)


def cost(tokens: int, context: int, linear: float, quadratic: float) -> float:
    return tokens * (linear + quadratic * (context + tokens / 2))


@given(linear=st.floats(1e-4, 1e-1), share=st.floats(0, 1), bound=st.floats(0.05, 5))
def test_a_chunk_of_the_advised_size_keeps_the_bound_behind_any_context(
    linear: float, share: float, bound: float
) -> None:
    quadratic = linear * share / 4096
    pace = PrefillPace()
    for context in range(0, 8000, 500):
        pace.observe(128, context, cost(128, context, linear, quadratic))

    for context in (0, 1000, 8000, 30_000):
        size = pace.tokens_within(bound, context)
        if size > MIN_CHUNK:
            assert cost(size, context, linear, quadratic) <= bound * 1.1


def test_chunks_shrink_as_the_context_grows() -> None:
    pace = PrefillPace()
    for context in range(0, 4000, 100):
        pace.observe(64, context, cost(64, context, 1e-3, 1e-6))

    assert (
        pace.tokens_within(0.25, 0)
        > pace.tokens_within(0.25, 4000)
        > pace.tokens_within(0.25, 30_000)
    )


def test_before_the_first_measurement_a_chunk_is_small() -> None:
    assert PrefillPace().tokens_within(10.0, 0) == FIRST_CHUNK


def test_a_machine_that_got_slower_is_noticed() -> None:
    pace = PrefillPace()
    for _ in range(50):
        pace.observe(100, 0, 0.1)
    for _ in range(50):
        pace.observe(100, 0, 1.0)

    assert pace.seconds_per_token(50) == pytest.approx(0.01, rel=0.2)


@given(
    st.lists(
        st.tuples(st.integers(1, 2048), st.integers(0, 100_000), st.floats(-1, 100)),
        min_size=1,
        max_size=50,
    )
)
def test_whatever_was_measured_the_advice_is_usable(seen: list[tuple[int, int, float]]) -> None:
    pace = PrefillPace()
    for tokens, context, seconds in seen:
        pace.observe(tokens, context, seconds)

    assert pace.tokens_within(0.25, 1000) >= MIN_CHUNK
    assert pace.seconds_per_token(1000) > 0


def test_the_length_of_a_decode_step_is_known_by_its_nearest_size() -> None:
    pace = DecodePace()
    assert pace.seconds(3) == 0
    pace.observe(2, 0.2)
    pace.observe(8, 0.8)

    assert [pace.seconds(rows) for rows in (0, 1, 2, 4, 7, 100)] == [0, 0.2, 0.2, 0.2, 0.8, 0.8]


def test_one_stall_does_not_shrink_the_chunks_after_it() -> None:
    pace = PrefillPace()
    for _ in range(5):
        pace.observe(512, 0, 0.05)
    before = pace.tokens_within(0.25, 0)

    pace.observe(512, 0, 2.0)

    assert pace.tokens_within(0.25, 0) == before


def test_a_first_chunk_that_stalled_is_forgotten_with_the_second() -> None:
    pace = PrefillPace()
    pace.observe(96, 0, 6.0)

    pace.observe(96, 0, 0.01)

    assert pace.seconds_per_token(48) == pytest.approx(0.01 / 96)


def test_stalls_that_go_on_are_the_new_pace() -> None:
    pace = PrefillPace()
    for _ in range(50):
        pace.observe(100, 0, 0.1)
    for _ in range(STALLS_IN_A_ROW - 1):
        pace.observe(100, 0, 10.0)
    assert pace.seconds_per_token(50) == pytest.approx(0.001)

    for _ in range(50):
        pace.observe(100, 0, 10.0)

    assert pace.seconds_per_token(50) == pytest.approx(0.1, rel=0.2)


def test_one_stall_does_not_change_what_a_decode_step_is_expected_to_take() -> None:
    pace = DecodePace()
    pace.observe(8, 0.01)

    pace.observe(8, 2.0)

    assert pace.seconds(8) == 0.01


def test_a_first_decode_step_that_stalled_is_forgotten_with_the_second() -> None:
    pace = DecodePace()
    pace.observe(8, 2.0)

    pace.observe(8, 0.01)

    assert pace.seconds(8) == 0.01


def test_a_fixed_cost_of_passes_is_told_from_the_price_of_a_token() -> None:
    pace = PrefillPace()
    for tokens in (32, 260, 800, 100, 400, 2000, 64):
        pace.observe(tokens, 0, 0.2 + tokens / 40_000)

    assert pace.seconds(4000, 0) == pytest.approx(0.3, rel=0.1)
    assert pace.seconds_per_token(0) == pytest.approx(1 / 40_000, rel=0.2)


def test_short_prompts_on_a_device_with_a_fixed_cost_are_read_in_few_steps() -> None:
    pace, left, sizes = PrefillPace(), 6400, []
    while left:
        sizes.append(min(left, pace.tokens_within(0.25, 0)))
        pace.observe(sizes[-1], 0, 0.03 + sizes[-1] / 40_000)
        left -= sizes[-1]

    assert len(sizes) < 6, sizes


def test_a_fixed_cost_above_the_bound_does_not_cut_prompts_into_crumbs() -> None:
    pace = PrefillPace()
    for tokens in (16, 100, 1000):
        pace.observe(tokens, 0, 0.4 + tokens / 40_000)

    assert pace.tokens_within(0.25, 0) > 2000


@given(
    st.lists(
        st.tuples(st.integers(30, 120), st.integers(0, 3000), st.floats(0.01, 10)),
        min_size=1,
        max_size=30,
    )
)
def test_chunks_of_nearly_one_size_never_look_like_a_fixed_cost(
    seen: list[tuple[int, int, float]],
) -> None:
    pace = PrefillPace()
    for tokens, context, seconds in seen:
        pace.observe(tokens, context, seconds)

    assert pace.seconds(0, 0) == 0


def noise(chance: random.Random) -> float:
    """Return a factor like those of a busy machine: the deciles of a log-normal one with sigma 0.3,
    and a stall in 20 chunks.
    """
    stall = chance.uniform(2, 5) if chance.random() < 0.05 else 1.0
    return stall * chance.choice((0.61, 0.73, 0.82, 0.89, 0.96, 1.04, 1.12, 1.22, 1.37, 1.64))


def lengthened(chance: random.Random, prompts: int) -> list[float]:
    """Return what chunks beside decoding rows take on a noisy machine without a fixed cost, in
    stall bounds and without the noise.
    """
    pace, linear, quadratic, bound = PrefillPace(), 0.012, 6e-6, 0.25
    pace.observe(256, 0, cost(256, 0, linear, quadratic))
    taken = []
    for _ in range(prompts):
        left, context = chance.choice(
            ((12, 0), (40, 1000), (60, 2500), (200, 0), (400, 0), (1500, 0))
        )
        is_alone = chance.random() < 0.4
        while left:
            advised = pace.tokens_within(bound * (4 if is_alone else 1), context)
            tokens = min(left, advised, 512)
            seconds = cost(tokens, context, linear, quadratic)
            if not is_alone and tokens > MIN_CHUNK:
                taken.append(seconds / bound)
            pace.observe(tokens, context, seconds * noise(chance))
            left, context = left - tokens, context + tokens
    return taken


def test_noise_makes_no_chunk_beside_decoding_rows_three_times_as_long_as_the_bound() -> None:
    taken = sorted(
        seconds for seed in range(36, 44) for seconds in lengthened(random.Random(seed), prompts=20)
    )

    assert taken[-1] < 3
    assert taken[len(taken) * 99 // 100] < 2


def test_noise_does_not_keep_chunks_small_on_a_device_with_a_fixed_cost() -> None:
    for seed in range(100):
        chance, pace = random.Random(seed), PrefillPace()
        for _ in range(4):
            tokens = pace.tokens_within(0.25, 0)
            pace.observe(tokens, 0, (0.02 + tokens * 2e-5) * noise(chance))

        assert pace.tokens_within(0.25, 0) > 300
