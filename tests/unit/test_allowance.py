"""What may be written in a day."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from semantic_trio.domain.allowance import DAY_HOURS, HOUR_SECONDS, Allowance

DAY = DAY_HOURS * HOUR_SECONDS


def test_without_a_limit_everything_may_be_written() -> None:
    allowance = Allowance()
    allowance.spend(1 << 50, 0)

    assert allowance.allows(1 << 50, 1)
    assert not allowance.is_sparing(1)


@pytest.mark.parametrize(("size", "allowed"), [(40, True), (41, False)])
def test_what_was_written_and_what_is_to_be_make_no_more_than_the_limit(
    size: int, allowed: bool
) -> None:
    allowance = Allowance(100)
    allowance.spend(35, 0)
    allowance.spend(25, HOUR_SECONDS)

    assert allowance.allows(size, HOUR_SECONDS) == allowed


@pytest.mark.parametrize(("spent", "sparing"), [(79, False), (80, True)])
def test_writes_are_spared_from_four_fifths_on(spent: int, sparing: bool) -> None:
    allowance = Allowance(100)
    allowance.spend(spent, 0)

    assert allowance.is_sparing(0) == sparing


def test_what_was_written_a_day_ago_counts_no_more() -> None:
    allowance = Allowance(100)
    allowance.spend(60, 10)
    allowance.spend(30, HOUR_SECONDS)

    assert [allowance.spent(now) for now in (DAY - 1, DAY + 10, DAY + HOUR_SECONDS)] == [90, 30, 0]


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 3 * 3600)), max_size=60))
def test_no_day_has_more_than_the_limit(writes: list[tuple[int, int]]) -> None:
    allowance, written, now = Allowance(2000), list[tuple[float, int]](), 0.0
    for size, pause in writes:
        now += pause
        if allowance.allows(size, now):
            allowance.spend(size, now)
            written.append((now, size))

    for end, _ in written:
        assert sum(size for at, size in written if end - DAY + HOUR_SECONDS < at <= end) <= 2000
