"""Observers of one server, as one observer.

Knows the list. Knows nothing of what observers do with an observation.
"""

import attrs

from semantic_trio.domain.observation import Observation
from semantic_trio.ports.observing import Observer


@attrs.define(eq=False)
class Observers:
    """Hands each observation to all observers, in the order in which they were added."""

    _all: list[Observer] = attrs.field(factory=list)

    def add(self, observer: Observer) -> None:
        """Have an observer notified from now on."""
        self._all.append(observer)

    def observe(self, observation: Observation) -> None:
        """See `Observer`."""
        for observer in self._all:
            observer.observe(observation)
