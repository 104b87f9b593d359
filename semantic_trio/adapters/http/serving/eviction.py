"""Eviction of a model's whole cache from RAM, without loss of what is still to be written to disk.

Knows how long to wait for the disk. Knows nothing of the wire.
"""

import attrs
import trio

from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.domain.memory import Memory

# Most seconds to wait for the device to be idle, which it never is under load: what rows that have
# just closed leave is stored by then.
SETTLE_SECONDS = 1.0
# Most seconds to wait for the disk. What is not written by then stays in RAM.
WRITE_SECONDS = 10.0


@attrs.frozen
class EvictionReport:
    """The cache after an eviction, in bytes of the cache budget."""

    freed_bytes: int
    used_bytes: int  # by rows, by pinned agents, and by what waits to be written
    unwritten_bytes: int  # of what waits to be written to disk, and would be lost

    def plus(self, other: "EvictionReport") -> "EvictionReport":
        """Return the sum, over two models."""
        return EvictionReport(
            self.freed_bytes + other.freed_bytes,
            self.used_bytes + other.used_bytes,
            self.unwritten_bytes + other.unwritten_bytes,
        )


async def evict_cache(model: ServedModel) -> EvictionReport:
    """Evict everything that no row uses, no pin holds and no request waits for.

    What is not on disk yet is written first, or stays.
    """
    memory = model.engine.memory
    with trio.move_on_after(SETTLE_SECONDS):
        await model.engine.settle()
    with trio.move_on_after(WRITE_SECONDS):
        while memory.disk.makes_room:
            await model.persistence.progressed()
    freed = memory.store.evict_all(memory.store.unwritten() | memory.store.states.awaited)
    model.engine.nudge()
    return EvictionReport(freed, memory.store.pool.used, _unwritten_bytes(memory))


def _unwritten_bytes(memory: Memory) -> int:
    return sum(queue.held_back.bytes for queue in memory.store.states.queues.values())
