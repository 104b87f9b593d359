"""Receivers of observations: inside the process and outside."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from semantic_trio.domain.observation import Observation

Item_contra = TypeVar("Item_contra", contravariant=True)


class Observer(Protocol):
    """Takes notice of what the server does: metrics, the event log, traces."""

    def observe(self, observation: Observation) -> None:
        """Take notice of an observation.

        Called on the event loop, between two steps: returns at once, and raises nothing.
        """


class Sink(Protocol[Item_contra]):
    """A place outside of the process that items are delivered to: observations, or metrics.

    Blocking: called in one worker thread at a time.
    """

    def write(self, batch: Sequence[Item_contra]) -> None:
        """Deliver items, in their order.

        Raises `OSError` where they are refused. May hang: the caller does not wait for ever.
        """
