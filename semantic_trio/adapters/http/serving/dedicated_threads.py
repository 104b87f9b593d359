"""Threads that are waited for no longer than somebody wants to wait.

Knows nothing of what they do.
"""

from collections.abc import Callable

import attrs
import trio

from semantic_trio.application.threads import Arguments, Result


@attrs.frozen(eq=False)
class DedicatedThreads:
    """See `InThread`. So many at once, which nobody else uses: one that hangs takes no thread from other work.

    Who waits may be cancelled: the thread then does what it was asked, and nobody hears of it.
    """

    _count: int
    _limiter: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_limiter", trio.CapacityLimiter(self._count))

    async def __call__(self, function: Callable[[*Arguments], Result], /, *arguments: *Arguments) -> Result:
        """See `InThread`."""
        return await trio.to_thread.run_sync(function, *arguments, abandon_on_cancel=True, limiter=self._limiter)
