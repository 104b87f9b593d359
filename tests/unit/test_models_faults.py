"""Models that cannot be looked for or opened, and clients that leave at any moment: what is left of
the others. On virtual time.
"""

import contextlib
import random
from contextlib import ExitStack

import pytest
import trio
import trio.testing

from semantic_trio.application.model_entry import ModelLimits, ModelState
from semantic_trio.domain.errors import (
    DrainingError,
    ModelNotFoundError,
    ModelSwapError,
    SemanticError,
)
from semantic_trio.testing import FakeOpener
from tests.unit.test_models import SIZES, Registry, running, states, use


class UnreadableOpener(FakeOpener):
    """An opener for which looking at one model raises."""

    async def needed_bytes(self, name: str) -> int:
        """See `ModelOpener.needed_bytes`."""
        if name == "other":
            raise PermissionError("models/other")
        return await super().needed_bytes(name)


async def test_a_swap_to_a_model_that_cannot_be_looked_at_ends_no_model(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(UnreadableOpener(SIZES)) as registry:
        with pytest.raises(ModelNotFoundError, match="PermissionError: models/other"):
            await registry.swap("other")
        used = await use(registry, "default", 0)

    assert used[0] == "main"


async def test_a_request_for_a_model_that_cannot_be_looked_at_ends_no_model(
    autojump_clock: trio.testing.MockClock,
) -> None:
    limits = ModelLimits(budget_bytes=200)
    async with running(UnreadableOpener(SIZES), "other", limits=limits) as registry:
        for _ in range(2):
            with pytest.raises(ModelNotFoundError, match="PermissionError: models/other"):
                await use(registry, "other", 0)
        used = await use(registry, "default", 0)

    assert used[0] == "main"


async def test_a_swap_that_fails_opens_no_model_beyond_the_limits(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The main model was not open before it: another one has its memory."""
    opener = FakeOpener(SIZES)
    limits = ModelLimits(max_models=1, grace_seconds=2)
    async with running(opener, "small", limits=limits) as registry, trio.open_nursery() as nursery:
        nursery.start_soon(use, registry, "small", 60)
        await trio.sleep(10)
        with pytest.raises(ModelSwapError) as failed:
            await registry.swap("other")
        after = states(registry)

    assert failed.value.is_previous_back
    assert after == {"main": "absent", "small": "ready"}
    assert opener.most_bytes == 100


async def test_operators_are_answered_at_once_where_the_server_drains(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The client of a swap would see its connection closed without an answer."""
    async with (
        running(FakeOpener(SIZES, open_seconds=10)) as registry,
        trio.open_nursery() as nursery,
    ):
        answered = list[float]()

        async def swap() -> None:
            with pytest.raises(DrainingError):
                await registry.swap("other")
            answered.append(trio.current_time())

        nursery.start_soon(swap)
        await trio.sleep(5)
        await registry.drain(30)
        with pytest.raises(DrainingError):
            await registry.load("small")
        assert "small" not in states(registry)

    assert answered == [15]


async def act(registry: Registry, chance: random.Random) -> None:
    """Do one thing with one model at some moment, and leave at another."""
    await trio.sleep(chance.uniform(0, 30))
    name = chance.choice(["default", "small", "small", "other", "huge", "nope"])
    action = chance.choice(["use", "use", "use", "wait", "load", "unload", "swap"])
    with (
        contextlib.suppress(SemanticError),
        trio.move_on_after(chance.choice([0.01, 0.3, 1, 1.2, 5, 60])),
        ExitStack() as stack,
    ):
        match action:
            case "use":
                model = await registry.acquire(name, stack)
                assert registry.models.entry(model.name).model is model
                await trio.sleep(chance.choice([0, 0.1, 1, 8]))
            case "wait":
                await registry.acquisition(name, stack).wait()
                await trio.sleep(chance.uniform(0, 2))
            case "load":
                await registry.load(name)
            case "unload":
                await registry.unload(name)
            case "swap":
                await registry.swap(name)


@pytest.mark.parametrize("seed", range(12))
async def test_the_registry_stays_consistent_whenever_clients_leave(
    seed: int, autojump_clock: trio.testing.MockClock
) -> None:
    """No request is left waiting, no model is lost, and the limits hold at every moment."""
    chance, opener = random.Random(seed), FakeOpener(SIZES)
    limits = ModelLimits(
        max_models=chance.choice([0, 1, 2]),
        budget_bytes=165,
        idle_seconds=chance.choice([0, 1, 5]),
        grace_seconds=chance.choice([0.5, 2, 10]),
    )
    async with running(opener, "small", "other", limits=limits) as registry:
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(act, registry, chance)
        await trio.sleep(100)

        for entry in registry.models.entries:
            assert (entry.users, entry.waiting, entry.opening) == (0, 0, None)
            assert (entry.model is not None) is (entry.state is ModelState.READY)
            assert entry.state not in {ModelState.LOADING, ModelState.UNLOADING}
        assert sum(model.bytes for model in registry.models.residents) == opener.open_bytes
        for name in registry.names.served:
            assert (await use(registry, name, 0))[0] == name
    assert opener.most_bytes <= limits.budget_bytes
