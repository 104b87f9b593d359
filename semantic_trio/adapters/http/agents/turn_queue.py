"""The queue of turns before each agent whose conversation the server keeps.

Knows places in a queue and their priorities. Knows nothing of what is done in a turn.

There are two orders per agent, and one cannot stand for the other. Requests that bring their whole
conversation and name an agent (`X-Agent-ID`, `session_id`) have their prompts when they arrive:
they are submitted at once, and the scheduler starts them in the order of their arrival. The prompt
of a turn that brings only new messages has the answer of the turn before in it, so it cannot be
encoded, let alone submitted, before that turn is over: it waits here. Its generation then waits in
the scheduler as all others do, behind requests of the first kind for the same agent.

In both orders an interactive turn hurries the background turns before it: they have to end before
it can begin.
"""

import collections
import weakref
from collections.abc import Callable

import attrs
import trio

from semantic_trio.domain.agent import Agent
from semantic_trio.domain.priority import Priority


@attrs.define(eq=False)
class QueuePlace:
    """A place in the queue of an agent.

    Its owner leaves it in any case; leaving twice is allowed.
    """

    priority: Priority
    _queue: collections.deque["QueuePlace"]
    _is_hurried: bool = attrs.field(init=False, default=False)
    _hurry: Callable[[], None] | None = attrs.field(init=False, default=None)
    _turn: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def is_first(self) -> bool:
        """True if it is the turn of this place."""
        return self._queue[0] is self

    async def wait(self) -> None:
        """Return when it is the turn of this place. Cancellation keeps the place."""
        if not self.is_first:
            await self._turn.wait()

    def hurry(self) -> None:
        """Note that an interactive turn waits for this one: what its turn has submitted is hurried,
        now or when it is submitted.
        """
        if not self._is_hurried and self._hurry is not None:
            self._hurry()
        self._is_hurried = True

    def submitted(self, hurry: Callable[[], None]) -> None:
        """Note how the generation is hurried that was submitted in this turn."""
        self._hurry = hurry
        if self._is_hurried:
            hurry()

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

    def length(self, agent: Agent, priority: Priority) -> int:
        """Return the number of places in an agent's queue that count for a request, including the
        one whose turn it is: for an interactive request the interactive ones.
        """
        counted = {Priority.INTERACTIVE, priority}
        return sum(place.priority in counted for place in self._queues.get(agent, ()))

    def join(self, agent: Agent, priority: Priority) -> QueuePlace:
        """Take the last place in an agent's queue. An interactive turn hurries those before it."""
        queue = self._queues.setdefault(agent, collections.deque())
        place = QueuePlace(priority, queue)
        if priority is Priority.INTERACTIVE:
            for earlier in queue:
                earlier.hurry()
        queue.append(place)
        return place
