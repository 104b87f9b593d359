"""Fakes of an observer and of a sink."""

from collections.abc import Sequence

import attrs

from semantic_trio.domain.observation import Observation, Observed


@attrs.define(eq=False)
class MemoryObserver:
    """Keeps the observations."""

    observations: list[Observation] = attrs.field(factory=list)

    def observe(self, observation: Observation) -> None:
        """See `Observer`."""
        self.observations.append(observation)


@attrs.define(eq=False)
class MemorySink:
    """Keeps what is delivered, or refuses it with `error`."""

    error: OSError | None = None
    batches: list[tuple[Observed, ...]] = attrs.field(factory=list)

    def write(self, batch: Sequence[Observed]) -> None:
        """See `Sink`."""
        if self.error is not None:
            raise self.error
        self.batches.append(tuple(batch))

    @property
    def observations(self) -> list[Observation]:
        """All observations that were delivered, in order."""
        return [observed.observation for batch in self.batches for observed in batch]
