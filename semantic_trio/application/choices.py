"""Several answers to one prompt, read as they come.

Knows answers. Knows nothing of the wire.
"""

from collections.abc import Sequence

import attrs
import trio

from semantic_trio.application.answer import Answer
from semantic_trio.domain.conversation import Part
from semantic_trio.domain.generation import Failed, Finished


@attrs.frozen
class Chosen:
    """What has come of one of the answers."""

    index: int
    event: Part | Finished


ChoicesEvent = Chosen | Finished | Failed


@attrs.define(eq=False)
class Choices:
    """Reads answers to the same prompt once."""

    answers: Sequence[Answer]
    _ends: dict[int, Finished] = attrs.field(init=False, factory=dict)

    async def receive(self) -> list[ChoicesEvent]:
        """What has come, as soon as there is anything; the last of all is the `Finished` of all together, or the first `Failed`.

        To be cancelled loses nothing.
        """
        arrived: list[ChoicesEvent] = []
        async with trio.open_nursery() as nursery:

            async def read(index: int, answer: Answer) -> None:
                events = await answer.receive()  # what was received cannot be lost: nothing is awaited from here on
                arrived.extend(self._told(index, events))
                nursery.cancel_scope.cancel()

            for index, answer in enumerate(self.answers):
                if index not in self._ends:
                    nursery.start_soon(read, index, answer)
        if len(self._ends) == len(self.answers) and not isinstance(arrived[-1], Failed):
            arrived.append(together([self._ends[index] for index in range(len(self.answers))]))
        return arrived

    def _told(self, index: int, events: Sequence[Part | Finished | Failed]) -> list[ChoicesEvent]:
        told: list[ChoicesEvent] = []
        for event in events:
            if isinstance(event, Failed):
                return [*told, event]
            if isinstance(event, Finished):
                self._ends[index] = event
            told.append(Chosen(index, event))
        return told


def together(ends: Sequence[Finished]) -> Finished:
    """The end of all answers: the prompt was read for all of them once, and what each has drawn adds up."""
    return attrs.evolve(ends[0], completion_tokens=sum(end.completion_tokens for end in ends))
