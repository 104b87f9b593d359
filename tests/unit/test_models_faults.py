"""Models that cannot be looked for or opened: what is left of the others. On virtual time."""

import pytest
import trio
import trio.testing

from semantic_trio.application.model_entry import ModelLimits
from semantic_trio.domain.errors import DrainingError, ModelNotFoundError, ModelSwapError
from semantic_trio.testing import FakeOpener
from tests.unit.test_models import SIZES, running, states, use


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
