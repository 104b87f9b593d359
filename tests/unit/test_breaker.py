"""When a circuit breaker lets work be tried."""

from semantic_trio.domain.breaker import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    MOST_FAILURES,
    BreakerState,
    CircuitBreaker,
)


def opened(now: float = 0.0) -> CircuitBreaker:
    breaker = CircuitBreaker()
    for _ in range(MOST_FAILURES):
        breaker.failed(now)
    return breaker


def test_failures_in_a_row_open_the_circuit_and_no_fewer_do() -> None:
    breaker = CircuitBreaker()
    states = []
    for _ in range(MOST_FAILURES):
        breaker.failed(10.0)
        states.append(breaker.state)

    assert states == [BreakerState.CLOSED] * (MOST_FAILURES - 1) + [BreakerState.OPEN]
    assert breaker.retry_at == 10.0 + FIRST_PAUSE_SECONDS


def test_a_success_between_failures_keeps_the_circuit_closed() -> None:
    breaker = CircuitBreaker()
    for _ in range(3 * MOST_FAILURES):
        breaker.failed(0.0)
        breaker.succeeded()

    assert breaker.state is BreakerState.CLOSED


def test_one_failure_opens_a_half_open_circuit_for_twice_as_long() -> None:
    breaker = opened()
    pauses: list[float] = []
    for _ in range(10):
        breaker.try_again()
        breaker.failed(100.0)
        assert breaker.state is BreakerState.OPEN
        pauses.append(breaker.retry_at - 100.0)

    assert pauses[:3] == [2 * FIRST_PAUSE_SECONDS, 4 * FIRST_PAUSE_SECONDS, 8 * FIRST_PAUSE_SECONDS]
    assert pauses[-1] == LONGEST_PAUSE_SECONDS


def test_a_success_closes_a_half_open_circuit_and_forgets_its_failures() -> None:
    breaker = opened()
    breaker.try_again()
    breaker.succeeded()
    assert breaker.state is BreakerState.CLOSED

    breaker.failed(50.0)
    assert breaker.state is BreakerState.CLOSED
    again = [breaker.failed(50.0) for _ in range(MOST_FAILURES - 1)]
    assert len(again) == MOST_FAILURES - 1
    assert breaker.retry_at == 50.0 + FIRST_PAUSE_SECONDS
