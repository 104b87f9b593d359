"""The line before each agent: who came first has the next turn.

Knows places. Knows nothing of what is done in a turn.
"""

import collections
import weakref

import attrs
import trio

from semantic_trio.domain.agent import Agent


@attrs.define(eq=False)
class QueuePlace:
    """A place in a line. Whoever has it leaves it, whatever happens; leaving may be repeated."""

    _line: collections.deque["QueuePlace"]
    _turn: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def is_first(self) -> bool:
        """Whether it is this one's turn."""
        return self._line[0] is self

    async def wait(self) -> None:
        """Return when it is this one's turn. To be cancelled costs no place."""
        if not self.is_first:
            await self._turn.wait()

    def leave(self) -> None:
        """Let the next one in."""
        if self in self._line:
            self._line.remove(self)
        if self._line:
            self._line[0]._turn.set()


@attrs.define(eq=False)
class AgentQueues:
    """The lines of all agents. An agent that is gone takes its line with it."""

    _lines: weakref.WeakKeyDictionary[Agent, collections.deque[QueuePlace]] = attrs.field(init=False, factory=weakref.WeakKeyDictionary)

    def length(self, agent: Agent) -> int:
        """How many have a place before an agent, the one whose turn it is among them."""
        return len(self._lines.get(agent, ()))

    def join(self, agent: Agent) -> QueuePlace:
        """Take the last place."""
        line = self._lines.setdefault(agent, collections.deque())
        place = QueuePlace(line)
        line.append(place)
        return place
