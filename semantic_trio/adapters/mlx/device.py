"""The one thread on which everything MLX happens, for the life of the process.

MLX streams belong to threads: an array made lazily on one and evaluated on another raises. So there
is one thread, it takes calls in order, and nothing else in the process imports MLX's functions.
"""

import functools
import queue
from collections.abc import Callable, Mapping
from typing import TypeVar

import attrs
import mlx.core as mx
import outcome
import trio

from semantic_trio.adapters.mlx import BLAS

T = TypeVar("T")

# How long a cancelled device may take to finish its running call before the thread is left behind.
LEAVE_BEHIND_SECONDS = 5.0


@attrs.define(eq=False)
class PassClock:
    """End of the last forward pass of any model: a pass that was started before it has taken the
    time since then.
    """

    finished_at: float = 0.0  # seconds on the monotonic clock


@attrs.define(eq=False)
class Device:
    """Runs calls on one thread, in the order in which they were made: the steps of several models
    alternate.

    `last_act` runs on the thread before it ends. MLX needs one: a process whose model was loaded
    off the main thread aborts at exit otherwise.
    """

    last_act: Callable[[], None]
    clock: PassClock = attrs.field(init=False, factory=PassClock)
    _calls: queue.SimpleQueue[Callable[[], None] | None] = attrs.field(
        init=False, factory=queue.SimpleQueue
    )

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Own the thread until `stop`.

        When cancelled, a call that does not return in time is left behind with its thread.
        """
        begun, ended = trio.Event(), trio.Event()
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            work = functools.partial(self.work, lambda: _wake(token, ended))
            nursery.start_soon(
                functools.partial(trio.to_thread.run_sync, work, abandon_on_cancel=True)
            )
            try:
                self.post(lambda: _wake(token, begun))
                await begun.wait()
                task_status.started()
                await ended.wait()
            finally:
                self.stop()
                with trio.move_on_after(LEAVE_BEHIND_SECONDS, shield=True):
                    await ended.wait()

    async def call(self, function: Callable[[], T]) -> T:
        """Run `function` on the thread and return or raise what it does.

        Cancelling leaves it running and its answer unread.
        """
        done, token = trio.Event(), trio.lowlevel.current_trio_token()
        answers: list[outcome.Outcome[T]] = []

        def answer() -> None:
            answers.append(outcome.capture(function))
            _wake(token, done)

        self.post(answer)
        await done.wait()
        return answers[0].unwrap()

    def post(self, call: Callable[[], None]) -> None:
        """Have the thread make a call that does not raise, whenever its turn comes."""
        self._calls.put(call)

    def stop(self) -> None:
        """End the thread after the calls that were made before."""
        self._calls.put(None)

    def work(self, ended: Callable[[], None]) -> None:
        """Run the thread's loop; `run` starts it. Calls `ended` as its last act."""
        while (call := self._calls.get()) is not None:
            call()
        self.last_act()
        ended()


def _wake(token: trio.lowlevel.TrioToken, done: trio.Event) -> None:
    try:
        token.run_sync_soon(done.set)
    except trio.RunFinishedError:
        pass  # the loop ended while this call ran: nobody waits


def last_act() -> None:
    """Last act of the thread: without it a process whose model was loaded off the main thread
    aborts at exit (mlx 0.32.4).
    """
    mx.synchronize()
    mx.clear_streams()


def free_unused() -> None:
    """Return the memory of arrays that are gone to the system. Called on the thread."""
    mx.clear_cache()


def memory_in_use() -> dict[str, float]:
    """Bytes in use by MLX, by kind. Reads counters of the allocator; any thread may."""
    return {
        "active": mx.get_active_memory(),
        "free_list": mx.get_cache_memory(),
        "peak": mx.get_peak_memory(),
    }


def element_bits(config: Mapping[str, object]) -> int:
    """Bits of a number a published model will compute with here, as far as its config.json tells:
    on a CPU models become float32.
    """
    text = config.get("text_config")
    fields = {**config, **(text if isinstance(text, Mapping) else {})}
    published = fields.get("dtype") or fields.get("torch_dtype")
    return 32 if mx.default_device() == mx.Device(mx.cpu) or published == "float32" else 16


def describe_device() -> str:
    """The device MLX computes on by default, and its memory, for people."""
    device = mx.default_device()
    facts = mx.device_info()
    name, size = (
        facts.get("device_name", facts.get("architecture", "")),
        facts.get("memory_size", facts.get("total_memory", 0)),
    )
    memory = f", {int(size) / 1e9:.0f} GB" if size else ""
    return f"{device.type.name} {name}{memory}".strip()


def blas_cure() -> str:
    """Return the command that brings a fast BLAS to the device; empty if nothing is lacking, and on
    a GPU, which needs none.
    """
    return BLAS.cure if mx.default_device() == mx.Device(mx.cpu) else ""
