"""The write allowance: bytes that may be written to disk in a day, because disks wear out.

Knows bytes, and seconds it is told. What was written before the process began is not counted.
"""

import collections

import attrs

HOUR_SECONDS, DAY_HOURS = 3600.0, 24
# From this part of the allowance on, only what an ended turn needs to go on later is written.
SPARING_FROM = 0.8


@attrs.define
class Allowance:
    """Bytes that may be written within 24 hours; 0: as many as there are."""

    limit_bytes: int = 0
    _by_hour: collections.deque[tuple[int, int]] = attrs.field(
        init=False, factory=collections.deque
    )

    def spend(self, size: int, now_seconds: float) -> None:
        """Count bytes that were written."""
        hour = int(now_seconds // HOUR_SECONDS)
        if self._by_hour and self._by_hour[-1][0] == hour:
            size += self._by_hour.pop()[1]
        self._by_hour.append((hour, size))

    def spent(self, now_seconds: float) -> int:
        """Bytes written within the last day."""
        while self._by_hour and self._by_hour[0][0] <= now_seconds // HOUR_SECONDS - DAY_HOURS:
            self._by_hour.popleft()
        return sum(size for _, size in self._by_hour)

    def is_sparing(self, now_seconds: float) -> bool:
        """True if only the ends of turns should be written."""
        return bool(self.limit_bytes) and self.spent(now_seconds) >= SPARING_FROM * self.limit_bytes

    def allows(self, size: int, now_seconds: float) -> bool:
        """True if `size` more bytes may be written."""
        return not self.limit_bytes or self.spent(now_seconds) + size <= self.limit_bytes
