"""The one MLX thread of a test process.

MLX keeps compiled functions with the stream of the thread that first ran them, so a process can
have one such thread in its life; tests, each with a trio loop of its own, share it.
"""

import functools
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from semantic_trio.adapters.mlx.device import Device, last_act

T = TypeVar("T")


@functools.cache
def shared_device() -> Device:
    """The device, its thread running. The process's end is the thread's end."""
    device = Device(last_act)
    ended = threading.Event()
    threading.Thread(target=device.work, args=(ended.set,), daemon=True).start()
    threading._register_atexit(lambda: (device.stop(), ended.wait(5)))  # type: ignore[attr-defined]
    return device


def on_device(function: Callable[[], T]) -> T:
    """Run a function on the device's thread, from a test without a trio loop."""
    answer: Future[T] = Future()
    shared_device().post(lambda: _settle(answer, function))
    return answer.result()


def _settle(answer: Future[T], function: Callable[[], T]) -> None:
    try:
        answer.set_result(function())
    except BaseException as error:
        answer.set_exception(error)
