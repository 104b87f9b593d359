"""The pinned thread. Real threads, so no virtual clock."""

import threading

import mlx.core as mx
import pytest
import trio
from structlog.testing import capture_logs

from semantic_trio.adapters.mlx import device as module
from semantic_trio.adapters.mlx.blas import CURE, BlasReport
from semantic_trio.adapters.mlx.device import Device
from semantic_trio.entrypoints import serve
from tests.device import on_device, shared_device


def _ignore(answer: object) -> None:
    """Make a function of a lambda that returns something nobody wants."""


async def test_every_call_runs_on_the_same_thread_in_order_and_the_last_act_comes_last(
    nursery: trio.Nursery,
) -> None:
    seen: list[tuple[str, int]] = []

    def note(what: str) -> int:
        seen.append((what, threading.get_ident()))
        return len(seen)

    device = Device(lambda: _ignore(note("last")))
    async with trio.open_nursery() as owner:
        await owner.start(device.run)
        answers = [await device.call(lambda i=i: note(str(i))) for i in range(5)]  # type: ignore[misc]
        device.stop()

    assert answers == [1, 2, 3, 4, 5]
    assert [what for what, _thread in seen] == ["0", "1", "2", "3", "4", "last"]
    assert len({thread for _what, thread in seen}) == 1
    assert seen[0][1] != threading.get_ident()


def test_calls_of_two_models_are_served_in_the_order_in_which_they_come() -> None:
    device, seen = Device(lambda: None), list[str]()
    for call in ("step of one", "step of two", "next of one", "next of two"):
        device.post(lambda call=call: seen.append(call))  # type: ignore[misc]
    device.stop()
    device.work(lambda: seen.append("ended"))

    assert seen == ["step of one", "step of two", "next of one", "next of two", "ended"]


async def test_what_a_call_raises_is_raised_to_its_caller_and_the_thread_goes_on(
    nursery: trio.Nursery,
) -> None:
    device = Device(lambda: None)
    await nursery.start(device.run)

    with pytest.raises(ZeroDivisionError):
        await device.call(lambda: 1 // 0)
    assert await device.call(lambda: "alive") == "alive"
    device.stop()


async def test_a_cancelled_caller_leaves_and_the_next_call_waits_its_turn(
    nursery: trio.Nursery,
) -> None:
    device, release = Device(lambda: None), threading.Event()
    await nursery.start(device.run)

    with trio.move_on_after(0.05) as scope:
        await device.call(release.wait)
    release.set()

    assert scope.cancelled_caught
    assert await device.call(lambda: 2) == 2
    device.stop()


async def test_a_thread_that_hangs_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_BEHIND_SECONDS", 0.1)
    device, release = Device(lambda: None), threading.Event()
    with trio.fail_after(5):
        async with trio.open_nursery() as owner:
            await owner.start(device.run)
            device.post(lambda: _ignore(release.wait()))
            owner.cancel_scope.cancel()
    release.set()


def test_the_last_act_of_one_thread_leaves_others_at_work() -> None:
    first = mx.ones(2).sum().item()
    thread = threading.Thread(target=module.last_act)
    thread.start()
    thread.join()

    assert mx.ones(2).sum().item() == first


async def test_a_cancelled_device_still_does_its_last_act(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    device = Device(done.set)
    async with trio.open_nursery() as owner:
        await owner.start(device.run)
        owner.cancel_scope.cancel()

    assert done.is_set()


def test_a_call_that_outlives_the_loop_wakes_nobody() -> None:
    device, release, done = Device(lambda: None), threading.Event(), threading.Event()
    thread = threading.Thread(target=device.work, args=(done.set,))
    thread.start()

    async def leave() -> None:
        with trio.move_on_after(0.05):
            await device.call(release.wait)

    trio.run(leave)
    release.set()
    device.stop()
    thread.join(5)

    assert done.is_set()


def test_memory_in_use_is_told_by_kind() -> None:
    def measure() -> tuple[int, dict[str, float]]:
        array = mx.zeros(1 << 16)
        mx.eval(array)
        return array.nbytes, module.memory_in_use()

    size, found = on_device(measure)

    assert found["active"] >= size
    assert found["peak"] >= size
    assert found["free_list"] >= 0


@pytest.mark.parametrize(
    ("kind", "report", "cure"),
    [
        (mx.cpu, BlasReport("", needed=True), CURE),
        (mx.cpu, BlasReport("libopenblas.so", needed=True), ""),
        (mx.gpu, BlasReport("", needed=True), ""),
    ],
)
def test_a_cure_is_named_where_a_cpu_lacks_a_blas(
    monkeypatch: pytest.MonkeyPatch, kind: mx.DeviceType, report: BlasReport, cure: str
) -> None:
    monkeypatch.setattr(module, "BLAS", report)
    monkeypatch.setattr(mx, "default_device", lambda: mx.Device(kind))

    assert module.blas_cure() == cure


@pytest.mark.parametrize("cure", [CURE, ""])
async def test_a_server_that_lacks_a_blas_says_so_in_one_line(
    monkeypatch: pytest.MonkeyPatch, cure: str
) -> None:
    monkeypatch.setattr(serve, "blas_cure", lambda: cure)

    with capture_logs() as lines:
        await serve.warn_of_slow_device(shared_device())

    assert [(line["log_level"], line["cure"]) for line in lines] == (
        [("warning", CURE)] if cure else []
    )
