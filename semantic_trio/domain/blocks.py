"""A budget of bytes, divided among the rows, blocks and snapshots that hold KV cache.

Knows names and amounts per layer group. Knows nothing of arrays, tokens or time: whoever holds the
arrays keeps them under the same names.
"""

from collections.abc import Hashable

import attrs

from semantic_trio.domain.errors import PoolExhaustedError
from semantic_trio.domain.geometry import ModelCacheSpec

Amount = tuple[int, ...]  # bytes, by layer group in the order of the spec

# Devices bound the number of buffers as well as their bytes: Metal allows 499,000, of which the
# model, the rows and the passes take some.
MAX_BUFFERS = 400_000


@attrs.define
class _Grant:
    amount: Amount
    buffers: int


@attrs.define
class BlockPool:
    """A budget of bytes: `used + available == total_bytes`, always. A refusal changes nothing."""

    spec: ModelCacheSpec
    total_bytes: int
    used: int = attrs.field(init=False, default=0)  # bytes
    buffers: int = attrs.field(init=False, default=0)
    _by_group: list[int] = attrs.field(init=False)
    _grants: dict[Hashable, _Grant] = attrs.field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        self._by_group = [0] * len(self.spec.groups)

    @property
    def available(self) -> int:
        """Bytes that are not used."""
        return self.total_bytes - self.used

    @property
    def available_buffers(self) -> int:
        """Buffers that are not used."""
        return MAX_BUFFERS - self.buffers

    @property
    def used_by_group(self) -> Amount:
        """Bytes used, by layer group."""
        return tuple(self._by_group)

    def __contains__(self, name: Hashable) -> bool:
        return name in self._grants

    def size(self, name: Hashable) -> int:
        """Bytes held under a name."""
        return sum(self._grants[name].amount)

    def allocate(self, name: Hashable, amount: Amount, buffers: int = 0) -> None:
        """Hold an amount under a new name: all of it or nothing of it.

        Raises `PoolExhaustedError`, with the pool unchanged, when it does not fit.
        """
        assert name not in self._grants, "a name is held once"
        if not self.fits(sum(amount), buffers):
            raise PoolExhaustedError(
                wanted=sum(amount), free=self.available, total=self.total_bytes
            )
        self._grants[name] = _Grant(amount, buffers)
        self._count(amount, buffers, +1)

    def resize(self, name: Hashable, amount: Amount) -> None:
        """Hold another amount under a name. Raises as `allocate` does."""
        grant = self._grants[name]
        more = sum(amount) - sum(grant.amount)
        if more > self.available:
            raise PoolExhaustedError(wanted=more, free=self.available, total=self.total_bytes)
        self._count(grant.amount, 0, -1)
        self._count(amount, 0, +1)
        grant.amount = amount

    def shrink(self, name: Hashable, amount: Amount) -> None:
        """Hold so much less under a name."""
        grant = self._grants[name]
        grant.amount = tuple(held - less for held, less in zip(grant.amount, amount, strict=True))
        assert min(grant.amount, default=0) >= 0, "no more is given back than is held"
        self._count(amount, 0, -1)

    def free(self, name: Hashable) -> None:
        """Hold a name no more: its bytes are available again."""
        grant = self._grants.pop(name)
        self._count(grant.amount, grant.buffers, -1)

    def fits(self, wanted: int, buffers: int = 0) -> bool:
        """True if so many bytes and buffers are available."""
        return wanted <= self.available and buffers <= self.available_buffers

    def largest_batch(self, tokens: int) -> int:
        """Return the number of sequences of so many tokens that fit into the available bytes."""
        return self.spec.agents_that_fit(self.available, tokens)

    def reconfigure(self, spec: ModelCacheSpec, total_bytes: int) -> None:
        """Serve another model or budget. Everything must have been freed."""
        assert not self._grants, "names of one model mean nothing to another"
        self.spec, self.total_bytes = spec, total_bytes
        self._by_group = [0] * len(spec.groups)

    def _count(self, amount: Amount, buffers: int, sign: int) -> None:
        self.used += sign * sum(amount)
        self.buffers += sign * buffers
        for group, size in enumerate(amount):
            self._by_group[group] += sign * size
