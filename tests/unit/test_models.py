"""The models of a server: which are open, for whom, and what makes room for what.

On virtual time.
"""

import contextlib
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import attrs
import pytest
import trio
import trio.lowlevel
import trio.testing

from semantic_trio.application.model_entry import Changed, ModelLimits, ModelState
from semantic_trio.application.models import ModelRegistry
from semantic_trio.application.observers import Observers
from semantic_trio.application.open_models import RETRY_SECONDS
from semantic_trio.domain.errors import (
    DrainingError,
    InvalidRequestError,
    ModelNotFoundError,
    ModelsBusyError,
    ModelSwapError,
)
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.domain.observation import ModelSwapped, ModelUnloaded, Observation
from semantic_trio.ports.observing import Observer
from semantic_trio.testing import FakeModel, FakeOpener


@attrs.define(eq=False)
class Notes:
    """An `Observer` that keeps everything."""

    observed: list[Observation] = attrs.field(init=False, factory=list)

    def observe(self, observation: Observation) -> None:
        """See `Observer.observe`."""
        self.observed.append(observation)


Registry = ModelRegistry[FakeModel]
SIZES = {"main": 100, "small": 10, "other": 60, "huge": 1000}


@asynccontextmanager
async def running(
    opener: FakeOpener,
    *others: str,
    limits: ModelLimits | None = None,
    observer: Observer | None = None,
) -> AsyncIterator[Registry]:
    """A registry whose main model is open."""
    registry: Registry = ModelRegistry(
        opener, ModelNames("main", others), limits or ModelLimits(), observer or Observers()
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(registry.run)
        await registry.load("main")
        yield registry
        nursery.cancel_scope.cancel()


async def use(registry: Registry, name: str, seconds: float) -> tuple[str, float, float]:
    """Use a model for a while. Returns its name, and when the use began and ended."""
    with ExitStack() as stack:
        model = await registry.acquire(name, stack)
        began = trio.current_time()
        await trio.sleep(seconds)
        return model.name, began, trio.current_time()


def states(registry: Registry) -> dict[str, str]:
    return {entry.name: entry.state.value for entry in registry.models.entries}


async def test_two_requests_for_a_model_that_is_not_open_open_it_once(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "small") as registry, trio.open_nursery() as nursery:
        assert states(registry) == {"main": "ready", "small": "absent"}
        for _ in range(2):
            nursery.start_soon(use, registry, "small", 5)
        await trio.sleep(0.5)
        assert states(registry) == {"main": "ready", "small": "loading"}
        assert (await use(registry, "main", 0))[1] == 1.5, "the others are served meanwhile"

    assert opener.events == [(1, "main opened"), (2, "small opened")]


async def test_a_client_that_leaves_does_not_end_the_opening_that_others_wait_for(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(FakeOpener(SIZES), "small") as registry, trio.open_nursery() as nursery:

        async def leave() -> None:
            with trio.move_on_after(0.3):
                await use(registry, "small", 5)

        nursery.start_soon(leave)
        await trio.sleep(0.5)
        found = await use(registry, "small", 0)
        waiting = registry.models.entry("small").waiting

    assert (found, waiting) == (("small", 2, 2), 0)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("main", "main"),
        ("small", "small"),
        ("default", "main"),
        ("claude-opus-4", "main"),
        ("claude-haiku-4-5", "small"),
        ("fast", "small"),
    ],
)
def test_a_name_is_an_id_an_alias_or_the_beginning_of_one(name: str, found: str) -> None:
    names = ModelNames("main", ("small",), {"fast": "small", "claude-haiku*": "small"})

    assert names.resolve(name) == found


def test_aliases_change_while_the_server_runs() -> None:
    names = ModelNames("main", ("org/small",))
    names.set_alias("fast", "org/small")
    found = names.resolve("fast")
    names.remove_alias("fast")

    assert found == "org/small"
    for name in ("fast", "gone"):
        with pytest.raises(ModelNotFoundError, match=r"served here: main, org/small"):
            names.resolve(name)
    with pytest.raises(ModelNotFoundError, match="aliases: none"):
        names.remove_alias("fast")
    with pytest.raises(ModelNotFoundError):
        names.set_alias("fast", "gone")
    for alias in ("main", "", "*"):
        with pytest.raises(InvalidRequestError):
            names.set_alias(alias, "main")


async def test_an_unknown_name_opens_nothing(autojump_clock: trio.testing.MockClock) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "small") as registry:
        with pytest.raises(ModelNotFoundError, match="served here: main, small"):
            await use(registry, "other", 0)

    assert [event for _, event in opener.events] == ["main opened"]


async def test_a_model_that_cannot_be_opened_leaves_the_others_and_is_tried_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES, failing={"small"})
    async with running(opener, "small") as registry:
        with pytest.raises(ModelNotFoundError, match="its weights are damaged"):
            await use(registry, "small", 0)
        failed, reason = states(registry), registry.models.entry("small").failure
        opener.failing.clear()
        await use(registry, "small", 0)
        await use(registry, "main", 0)

    assert (failed, reason) == (
        {"main": "ready", "small": "failed"},
        "model: small (its weights are damaged)",
    )


async def test_what_opening_a_model_raises_ends_no_other_model(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Broken(FakeOpener):
        async def serve(self, name: str, *arguments: object, **keywords: object) -> None:
            if name == "small":
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._raise)
            await super().serve(name, *arguments, **keywords)  # type: ignore[arg-type]

        async def _raise(self) -> None:
            raise KeyError("vocab")

    async with running(Broken(SIZES), "small") as registry:
        with pytest.raises(ModelNotFoundError, match="KeyError: 'vocab'"):
            await use(registry, "small", 0)
        assert (await use(registry, "main", 0))[0] == "main"


async def test_a_model_without_requests_is_closed_after_a_while(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "small", limits=ModelLimits(idle_seconds=60)) as registry:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use, registry, "small", 100)  # from 2 to 102
            await trio.sleep(29)
            await use(registry, "main", 0)  # at 30
        await trio.sleep(100)
        assert registry.models.residents == ()
        await use(registry, "main", 0)

    assert opener.events == [
        (1, "main opened"),
        (2, "small opened"),
        (90.5, "main closed"),
        (162.5, "small closed"),
        (203, "main opened"),
    ]


async def test_without_a_limit_on_idle_time_a_model_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(FakeOpener(SIZES), "small") as registry:
        await use(registry, "small", 0)
        await trio.sleep(80_000)

        assert states(registry) == {"main": "ready", "small": "ready"}


async def test_the_least_recently_used_idle_model_makes_room(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "small", "other", limits=ModelLimits(max_models=2)) as registry:
        await use(registry, "small", 0)
        await use(registry, "main", 0)
        await use(registry, "other", 0)

        assert states(registry) == {"main": "ready", "small": "absent", "other": "ready"}


@pytest.mark.parametrize("limits", [ModelLimits(max_models=2), ModelLimits(budget_bytes=165)])
async def test_three_models_with_room_for_two_answer_mixed_requests(
    limits: ModelLimits, autojump_clock: trio.testing.MockClock
) -> None:
    """None waits for ever, none loses its model while it answers, and the limit holds at every
    moment.
    """
    opener, answered = FakeOpener(SIZES), list[str]()
    async with running(opener, "small", "other", limits=limits) as registry:

        async def request(number: int) -> None:
            name = ("main", "small", "other")[number * 7 % 3]
            await trio.sleep(number * 0.1)
            with ExitStack() as stack:
                model = await registry.acquire(name, stack)
                await trio.sleep(0.2 + number % 5 * 0.1)
                assert (model.name, registry.models.entry(name).model) == (name, model)
                answered.append(name)

        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(request, number)

    assert len(answered) == 200
    assert opener.most_bytes <= (limits.budget_bytes or 160)
    assert {answered.count(name) for name in ("main", "small", "other")} == {66, 67}


async def test_a_busy_model_is_not_closed_for_another_and_answers_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with (
        running(opener, "small", limits=ModelLimits(max_models=1, grace_seconds=10)) as registry,
        trio.open_nursery() as nursery,
    ):
        ends = list[tuple[str, float, float]]()

        async def request(name: str, seconds: float) -> None:
            ends.append(await use(registry, name, seconds))

        nursery.start_soon(request, "main", 100)
        await trio.lowlevel.checkpoint()
        nursery.start_soon(trio.sleep, 0)
        with pytest.raises(ModelsBusyError) as refused:
            await use(registry, "small", 0)
        began = trio.current_time()
        nursery.start_soon(request, "main", 1)
    assert attrs.asdict(refused.value) == {
        "model": "small",
        "busy": "main",
        "requests": 1,
        "retry_after_seconds": RETRY_SECONDS,
    }
    assert began == 11
    assert ends == [("main", 11, 12), ("main", 1, 101)]


async def test_requests_that_wait_while_a_model_cannot_be_closed_are_served_when_it_stays(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Also while a third model waits for the same place."""
    limits = ModelLimits(max_models=1, grace_seconds=10)
    async with (
        running(FakeOpener(SIZES), "small", "other", limits=limits) as registry,
        trio.open_nursery() as nursery,
    ):
        refused, served = list[str](), list[tuple[str, float, float]]()

        async def want(name: str) -> None:
            try:
                await use(registry, name, 0)
            except ModelsBusyError:
                refused.append(name)

        async def wait() -> None:
            served.append(await use(registry, "main", 1))

        nursery.start_soon(use, registry, "main", 100)
        await trio.sleep(1)
        for task, name in ((want, "small"), (want, "other")):
            nursery.start_soon(task, name)
        await trio.sleep(1)
        nursery.start_soon(wait)

    assert sorted(refused) == ["other", "small"]
    assert served == [("main", 12, 13)]


async def test_a_model_that_is_larger_than_the_budget_closes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener({"main": 100 << 20, "huge": 900 << 20})
    async with running(opener, "huge", limits=ModelLimits(budget_bytes=200 << 20)) as registry:
        for change in (registry.load, registry.swap):
            with pytest.raises(
                ModelNotFoundError,
                match="takes 900 MiB with its cache, and models_budget_mb is 200",
            ):
                await change("huge")

        assert registry.models.entry("main").state is ModelState.READY


async def test_an_operator_opens_and_closes_models(autojump_clock: trio.testing.MockClock) -> None:
    async with running(FakeOpener(SIZES)) as registry:
        opened, again = await registry.load("other"), await registry.load("other")
        used = await use(registry, "other", 0)
        closed, nothing = await registry.unload("other"), await registry.unload("other")
        with pytest.raises(ModelNotFoundError):
            await registry.load("nope")

        assert (opened, again) == (Changed("other", 1.0, 60), Changed("other", 0.0, 0))
        assert (closed, nothing) == (Changed("other", 0.5, 60), Changed("other", 0.0, 0))
        assert used[0] == "other"
        assert states(registry) == {"main": "ready", "other": "absent"}


async def test_a_swap_waits_for_the_requests_of_the_old_model_and_has_new_ones_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener, notes, ends = FakeOpener(SIZES), Notes(), list[tuple[str, float, float]]()
    async with running(opener, "small", observer=notes) as registry:
        async with trio.open_nursery() as nursery:

            async def request(name: str, after: float, seconds: float) -> None:
                await trio.sleep(after)
                ends.append(await use(registry, name, seconds))

            for arguments in (("main", 0.0, 3.0), ("default", 1.0, 0.5), ("small", 1.0, 7.0)):
                nursery.start_soon(request, *arguments)
            await trio.sleep(0.5)  # at 1.5 on the clock
            swapped = await registry.swap("other")
        with pytest.raises(ModelNotFoundError, match="served here: other, small"):
            await use(registry, "main", 0)

    assert swapped == Changed("other", 4.0, 60)
    assert notes.observed == [
        ModelUnloaded(model="main", cause="swap", size_bytes=100, seconds=3.0),
        ModelSwapped(model="other", previous="main", seconds=4.0, is_done=True),
    ]
    assert ends == [("main", 1, 4), ("other", 5.5, 6.0), ("small", 6.5, 13.5)]
    assert opener.events == [
        (1, "main opened"),
        (4.5, "main closed"),
        (5.5, "other opened"),
        (6.5, "small opened"),
    ]


async def test_requests_that_outlast_the_grace_are_failed_and_nothing_hangs(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(FakeOpener(SIZES), limits=ModelLimits(grace_seconds=10)) as registry,
        trio.open_nursery() as nursery,
    ):
        with ExitStack() as stack:
            model = await registry.acquire("main", stack)
            nursery.start_soon(registry.swap, "other")
            with trio.fail_after(11):
                await model.drained.wait()
            failed_at, error = trio.current_time(), model.failed_with
        await trio.testing.wait_all_tasks_blocked()
        swapped = await use(registry, "default", 0)

    assert failed_at == 11
    assert str(error) == "main is being unloaded"
    assert swapped[0] == "other"


async def test_a_swap_that_fails_has_the_old_model_serve_again(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener, notes = FakeOpener(SIZES, failing={"other"}), Notes()
    async with running(opener, observer=notes) as registry:
        with pytest.raises(ModelSwapError) as failed:
            await registry.swap("other")
        used = await use(registry, "default", 0)

    assert (failed.value.model, failed.value.previous, failed.value.is_previous_back) == (
        "other",
        "main",
        True,
    )
    assert failed.value.seconds == 2.5
    assert notes.observed[-1] == ModelSwapped(
        model="other", previous="main", seconds=2.5, is_done=False
    )
    assert "its weights are damaged" in failed.value.reason
    assert used[0] == "main"


async def test_where_the_old_model_cannot_be_opened_either_the_next_request_tries(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener) as registry:
        opener.failing.update({"main", "other"})
        with pytest.raises(ModelSwapError) as failed:
            await registry.swap("other")
        opener.failing.clear()
        used = await use(registry, "default", 0)

    assert not failed.value.is_previous_back
    assert used[0] == "main"


async def test_a_swap_to_what_is_not_there_closes_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener) as registry:
        with pytest.raises(ModelNotFoundError, match="not on this machine"):
            await registry.swap("nope")
        assert await registry.swap("main") == Changed("main", 0.0, 100)

    assert [event for _, event in opener.events] == ["main opened"]


async def test_an_operator_who_leaves_does_not_leave_half_a_swap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(FakeOpener(SIZES)) as registry:
        with trio.move_on_after(0.2):
            await registry.swap("other")
        used = await use(registry, "default", 0)

    assert used[0] == "other"


async def test_requests_for_the_main_model_do_not_bring_the_old_one_back_during_a_swap(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "main") as registry, trio.open_nursery() as nursery:
        nursery.start_soon(registry.swap, "other")
        await trio.sleep(0.1)
        used = await use(registry, "default", 0)

    assert used[0] == "other"
    assert [event for _, event in opener.events] == ["main opened", "main closed", "other opened"]


async def test_two_swaps_at_once_come_one_after_the_other(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with (
        running(FakeOpener(SIZES), "main", "small", "other") as registry,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(registry.swap, "other")
        nursery.start_soon(registry.swap, "small")
        await trio.sleep(0.1)
        used = await use(registry, "default", 0)

    assert used[0] in {"other", "small"}
    assert used[1] >= 4.0, "after both"


async def test_at_the_end_requests_are_drained_and_models_are_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "small", "other") as registry, trio.open_nursery() as nursery:
        refused = list[str]()

        async def wait() -> None:
            with contextlib.suppress(DrainingError):
                await use(registry, "other", 0)
            refused.append("other")

        await use(registry, "small", 0)
        nursery.start_soon(wait)
        await trio.sleep(0.5)
        began = trio.current_time()
        await registry.drain(2)
        drained = trio.current_time() - began
        await registry.close(trio.current_time())
        closed = {event for _, event in opener.events if event.endswith("closed")}
        with pytest.raises(DrainingError):
            await use(registry, "main", 0)
        with pytest.raises(DrainingError):
            await registry.swap("other")

    assert refused == ["other"]
    assert drained == 2
    assert closed == {"main closed", "small closed", "other closed"}, (
        "the last one was opened meanwhile"
    )


async def test_a_model_that_is_being_closed_at_the_end_is_closed_to_the_end(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES, close_seconds=5)
    async with running(opener) as registry, trio.open_nursery() as nursery:

        async def unload() -> None:
            with pytest.raises(DrainingError):
                await registry.unload("main")

        nursery.start_soon(unload)
        await trio.sleep(1)
        await registry.drain(0)
        await registry.close(trio.current_time())
        closed = list(opener.events)

    assert closed == [(1, "main opened"), (6, "main closed")]


async def test_a_model_in_use_by_an_agents_route_is_not_closed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(FakeOpener(SIZES), limits=ModelLimits(idle_seconds=10)) as registry:
        assert registry.models.main is not None
        with ExitStack() as stack:
            registry.models.hold(registry.models.main, stack)
            await trio.sleep(100)
            assert registry.models.main is not None
        await trio.sleep(11)
        assert registry.models.main is None


async def test_every_unloading_says_why(autojump_clock: trio.testing.MockClock) -> None:
    notes = Notes()
    limits = ModelLimits(max_models=2, idle_seconds=60)
    async with running(
        FakeOpener(SIZES), "small", "other", limits=limits, observer=notes
    ) as registry:
        await registry.load("small")
        await registry.unload("small")
        for name in ("small", "other"):
            await use(registry, name, 0)
        await trio.sleep(100)

    causes = [(one.model, one.cause) for one in notes.observed if isinstance(one, ModelUnloaded)]
    assert causes == [
        ("small", "operator"),
        ("main", "memory"),
        ("small", "idle"),
        ("other", "idle"),
    ]


async def test_a_model_has_an_idle_time_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    limits = ModelLimits(idle_seconds=60, idle_seconds_of={"small": 0, "other": 10})
    async with running(FakeOpener(SIZES), "small", "other", limits=limits) as registry:
        for name in ("small", "other"):
            await registry.load(name)
        await trio.sleep(30)
        early = states(registry)
        await trio.sleep(3600)
        late = states(registry)

    assert early == {"main": "ready", "small": "ready", "other": "absent"}
    assert late == {"main": "absent", "small": "ready", "other": "absent"}


async def test_the_end_does_not_wait_for_a_model_that_is_being_opened(
    autojump_clock: trio.testing.MockClock,
) -> None:
    opener = FakeOpener(SIZES)
    async with running(opener, "other") as registry, trio.open_nursery() as nursery:
        opener.open_seconds = 1000

        async def wait() -> None:
            with pytest.raises(DrainingError):
                await use(registry, "other", 0)

        nursery.start_soon(wait)
        await trio.sleep(0.5)
        began = trio.current_time()
        await registry.drain(2)
        await registry.close(trio.current_time())
        took = trio.current_time() - began

    assert took == 2.5, "the grace, and the closing of the main model"
    assert trio.current_time() - began == 2.5
