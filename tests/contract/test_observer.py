"""The same claims about every observer and every sink, fakes and real ones."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from semantic_trio.adapters.events import EventFile
from semantic_trio.adapters.metrics import Metrics
from semantic_trio.application.delivery import QUEUE_LIMIT, DeliveringObserver, Delivery
from semantic_trio.application.observers import Observers
from semantic_trio.domain.observation import Evicted, Observed
from semantic_trio.ports.observing import Observer, Sink
from semantic_trio.testing import MemoryObserver, MemorySink
from tests.observations import SAMPLES

OBSERVERS: dict[str, Callable[[], Observer]] = {
    "fake": MemoryObserver,
    "several": lambda: Observers([MemoryObserver(), MemoryObserver()]),
    "metrics": lambda: Metrics(),
    "delivery": lambda: DeliveringObserver(Delivery("test", MemorySink())),
}


@pytest.fixture(params=OBSERVERS)
def observer(request: pytest.FixtureRequest) -> Observer:
    return OBSERVERS[request.param]()


async def test_every_observation_is_taken_at_once(
    observer: Observer, autojump_clock: trio.testing.MockClock
) -> None:
    for observation in SAMPLES.values():
        observer.observe(observation)

    assert trio.current_time() == 0


async def test_any_number_of_observations_is_taken_before_the_observer_has_run(
    observer: Observer, autojump_clock: trio.testing.MockClock
) -> None:
    for number in range(QUEUE_LIMIT + 10):
        observer.observe(Evicted(tier="ram", entries=number))


def test_several_observers_get_the_same_in_the_same_order() -> None:
    first, second = MemoryObserver(), MemoryObserver()
    several = Observers([first])
    several.add(second)
    for observation in SAMPLES.values():
        several.observe(observation)

    assert first.observations == second.observations == list(SAMPLES.values())


@pytest.fixture(params=["fake", "file"])
def sink(
    request: pytest.FixtureRequest, tmp_path: Path
) -> tuple[Sink[Observed], Callable[[], list[str]], Callable[[], None]]:
    """A sink, the events that have arrived there, and a way to have it refuse from now on."""
    if request.param == "fake":
        fake = MemorySink()
        return (
            fake,
            lambda: [name_of(one) for batch in fake.batches for one in batch],
            lambda: setattr(fake, "error", OSError("refused")),
        )
    file = EventFile(tmp_path / "logs" / "events.jsonl")

    def refuse() -> None:
        with contextlib.suppress(FileNotFoundError):
            file.path.rename(tmp_path / "moved")
        file.path.mkdir()

    def arrived() -> list[str]:
        path = file.path if file.path.is_file() else tmp_path / "moved"
        return [str(json.loads(line)["number"]) for line in path.read_text().splitlines()]

    return file, arrived, refuse


def name_of(observed: Observed) -> str:
    return str(observed.number)


def batch(*numbers: int) -> list[Observed]:
    return [
        Observed(number, 1e9, 1.0, observation)
        for number, observation in zip(numbers, SAMPLES.values(), strict=False)
    ]


def test_a_sink_keeps_the_order(
    sink: tuple[Sink[Observed], Callable[[], list[str]], Callable[[], None]],
) -> None:
    written, arrived, _ = sink
    written.write(batch(*range(1, len(SAMPLES) + 1)))
    written.write(batch(100, 101))

    assert arrived() == [*map(str, range(1, len(SAMPLES) + 1)), "100", "101"]


def test_a_sink_that_refuses_raises_an_os_error_and_keeps_what_it_has(
    sink: tuple[Sink[Observed], Callable[[], list[str]], Callable[[], None]],
) -> None:
    written, arrived, refuse = sink
    written.write(batch(1))
    refuse()
    with pytest.raises(OSError, match=r"refused|directory"):
        written.write(batch(2))

    assert arrived() == ["1"]
