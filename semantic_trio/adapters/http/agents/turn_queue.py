"""The queue of turns before each agent whose conversation the server keeps.

Knows places in a queue. Knows nothing of what is done in a turn.

There are two orders per agent, and one cannot stand for the other. Requests that bring their whole
conversation and name an agent (`X-Agent-ID`, `session_id`) have their prompts when they arrive:
they are submitted at once, and the scheduler starts them in the order of their arrival. The prompt
of a turn that brings only new messages has the answer of the turn before in it, so it cannot be
encoded, let alone submitted, before that turn is over: it waits here. Its generation then waits in
the scheduler as all others do, behind requests of the first kind for the same agent.
"""

import collections
import weakref

import attrs
import trio

from semantic_trio.domain.agent import Agent


@attrs.define(eq=False)
class QueuePlace:
    """A place in the queue of an agent.

    Its owner leaves it in any case; leaving twice is allowed.
    """

    _queue: collections.deque["QueuePlace"]
    _turn: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def is_first(self) -> bool:
        """True if it is the turn of this place."""
        return self._queue[0] is self

    async def wait(self) -> None:
        """Return when it is the turn of this place. Cancellation keeps the place."""
        if not self.is_first:
            await self._turn.wait()

    def leave(self) -> None:
        """Leave the queue, and wake the next place."""
        if self in self._queue:
            self._queue.remove(self)
        if self._queue:
            self._queue[0]._turn.set()


@attrs.define(eq=False)
class AgentQueues:
    """The queues of all agents. The queue of a deleted agent goes with it."""

    _queues: weakref.WeakKeyDictionary[Agent, collections.deque[QueuePlace]] = attrs.field(
        init=False, factory=weakref.WeakKeyDictionary
    )

    def length(self, agent: Agent) -> int:
        """Return the number of places in an agent's queue, including the one whose turn it is."""
        return len(self._queues.get(agent, ()))

    def join(self, agent: Agent) -> QueuePlace:
        """Take the last place in an agent's queue."""
        queue = self._queues.setdefault(agent, collections.deque())
        place = QueuePlace(queue)
        queue.append(place)
        return place
