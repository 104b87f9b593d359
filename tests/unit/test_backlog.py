"""How many requests may run and wait, and when a refused client should try again."""

import pytest

from semantic_trio.application.backlog import FIRST_RETRY_SECONDS, LONGEST_RETRY_SECONDS, Backlog
from semantic_trio.domain.errors import InvalidRequestError, OverloadedError


def test_requests_are_refused_when_rows_and_queue_are_full() -> None:
    backlog = Backlog(limit=3, max_rows=2)

    backlog.refuse(1, 4, 2)
    with pytest.raises(OverloadedError):
        backlog.refuse(1, 5, 3)
    with pytest.raises(OverloadedError):
        backlog.refuse(2, 4, 2)


def test_more_answers_than_can_ever_run_and_wait_are_an_invalid_request() -> None:
    backlog = Backlog(limit=3, max_rows=2)

    backlog.refuse(5, 0, 0)
    with pytest.raises(InvalidRequestError, match="6 answers are wanted at once, and 5 requests"):
        backlog.refuse(6, 0, 0)


def test_a_refused_client_waits_as_long_as_the_queue_takes_at_the_recent_pace() -> None:
    backlog = Backlog(limit=3, max_rows=2)
    before = backlog.retry_after_seconds(3)

    backlog.ended(5.0)
    first = backlog.retry_after_seconds(3)
    backlog.ended(10.0)

    assert (before, first, backlog.retry_after_seconds(3)) == (FIRST_RETRY_SECONDS, 10, 12)
    backlog.ended(1e6)
    assert backlog.retry_after_seconds(3) == LONGEST_RETRY_SECONDS
