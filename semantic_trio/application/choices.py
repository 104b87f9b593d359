"""Several answers to one prompt, read as they come.

Knows answers. Knows nothing of the wire.
"""

from collections.abc import Sequence

import attrs
import trio

from semantic_trio.application.answer import Answer
from semantic_trio.domain.conversation import AnswerPart
from semantic_trio.domain.generation import Failed, Finished


@attrs.frozen
class Chosen:
    """An event of one of the answers."""

    index: int
    event: AnswerPart | Finished


ChoicesEvent = Chosen | Finished | Failed


@attrs.define(eq=False)
class Choices:
    """Reads answers to the same prompt once."""

    answers: Sequence[Answer]
    _ends: dict[int, Finished] = attrs.field(init=False, factory=dict)
    _arrived: list[ChoicesEvent] = attrs.field(init=False, factory=list)  # told to nobody yet
    _failed: Failed | None = attrs.field(init=False, default=None)

    async def receive(self) -> list[ChoicesEvent]:
        """Wait for an event and return all that have come; the last of all is the `Finished` of all
        together, or the first `Failed`.

        Cancelling loses no event.
        """
        if not self._arrived:
            await self._listen()
        arrived, self._arrived = self._arrived, []
        if self._failed is not None:
            return [*arrived, self._failed]
        if len(self._ends) == len(self.answers):
            arrived.append(together([self._ends[index] for index in range(len(self.answers))]))
        return arrived

    async def _listen(self) -> None:
        """Wait for events of one of the answers that have not ended; events that others have at
        that moment are taken too.
        """
        # Nearly always, and then for every token: a nursery would cost as much as encoding the
        # event.
        if len(self.answers) == 1:
            await self._read(0, self.answers[0])
            return
        async with trio.open_nursery() as nursery:
            for index, answer in enumerate(self.answers):
                if index not in self._ends:
                    nursery.start_soon(self._read_first, index, answer, nursery.cancel_scope)

    async def _read_first(self, index: int, answer: Answer, others: trio.CancelScope) -> None:
        await self._read(index, answer)
        others.cancel()

    async def _read(self, index: int, answer: Answer) -> None:
        # what was received cannot be lost: nothing is awaited from here on
        for event in await answer.receive():
            if isinstance(event, Failed):
                self._failed = self._failed or event
            else:
                self._ends |= {index: event} if isinstance(event, Finished) else {}
                self._arrived.append(Chosen(index, event))


def together(ends: Sequence[Finished]) -> Finished:
    """The end of all answers: the prompt was read for all of them once, and what each has drawn
    adds up.
    """
    return attrs.evolve(ends[0], completion_tokens=sum(end.completion_tokens for end in ends))
