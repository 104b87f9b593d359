"""Signals that end the server, and what comes of several of them."""

import signal
from collections.abc import Iterator

import pytest

from semantic_trio.entrypoints.signals import SAME_SECONDS, Response, Signals, ending_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_drains(number: int) -> None:
    assert Signals().response(number, 100.0) is Response.DRAIN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_within_a_second_are_one(number: int) -> None:
    signals = Signals()
    signals.response(signal.SIGTERM, 100.0)

    assert signals.response(number, 100.002) is Response.NOTHING
    assert signals.response(number, 100.0 + SAME_SECONDS - 0.001) is Response.NOTHING


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_later_signal_ends_at_once(number: int) -> None:
    signals = Signals()
    signals.response(signal.SIGHUP, 100.0)

    assert signals.response(number, 100.0 + SAME_SECONDS) is Response.END


def test_a_terminal_that_closes_during_a_drain_does_not_hurry_it() -> None:
    signals = Signals()
    signals.response(signal.SIGTERM, 100.0)

    assert signals.response(signal.SIGHUP, 110.0) is Response.NOTHING


@pytest.fixture
def hangup() -> Iterator[None]:
    """Whatever the tests themselves were started with."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hangup")
@pytest.mark.parametrize(("handler", "listens"), [(signal.SIG_DFL, True), (signal.SIG_IGN, False)])
def test_a_process_started_by_nohup_goes_on_ignoring_sighup(
    handler: signal.Handlers, listens: bool
) -> None:
    signal.signal(signal.SIGHUP, handler)

    assert (signal.SIGHUP in ending_signals()) is listens
    assert {signal.SIGTERM, signal.SIGINT} <= set(ending_signals())
