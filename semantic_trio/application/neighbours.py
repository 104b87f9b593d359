"""The engines that share one device.

Knows which of them decode. Knows nothing of how a device serves them.
"""

import contextlib
from collections.abc import Iterator

import attrs

from semantic_trio.application.engine import Engine


@attrs.define(eq=False)
class Neighbours:
    """The engines of one device: while one decodes, the others read prompts in chunks that keep the
    bound on its stalls.
    """

    _engines: list[Engine] = attrs.field(init=False, factory=list)

    @contextlib.contextmanager
    def joined(self, engine: Engine) -> Iterator[None]:
        """Have an engine share the device until the context ends."""
        engine.scheduler.disturbs_others = lambda: any(
            other.scheduler.is_decoding for other in self._engines if other is not engine
        )
        self._engines.append(engine)
        try:
            yield
        finally:
            self._engines.remove(engine)
