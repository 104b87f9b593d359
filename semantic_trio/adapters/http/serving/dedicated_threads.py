"""Worker threads of one purpose, whose callers can stop waiting for them.

Knows nothing of the work.
"""

from collections.abc import Callable

import attrs
import trio

from semantic_trio.application.threads import Arguments, Result


@attrs.frozen(eq=False)
class DedicatedThreads:
    """See `InThread`.

    A bounded number of threads that no other work uses: one that hangs takes no thread from other
    work.

    A caller may be cancelled: the thread then finishes its work, and the result is discarded.
    """

    _count: int
    _limiter: trio.CapacityLimiter = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "_limiter", trio.CapacityLimiter(self._count))

    async def __call__(
        self, function: Callable[[*Arguments], Result], /, *arguments: *Arguments
    ) -> Result:
        """See `InThread`."""
        return await trio.to_thread.run_sync(
            function, *arguments, abandon_on_cancel=True, limiter=self._limiter
        )
