"""Responses that are being made: found by their ids, and made on after the request for them is over where that is wanted.

Knows turns and their end. Knows nothing of requests.
"""

from contextlib import ExitStack

import attrs
import structlog
import trio

from semantic_trio.adapters.http.openai.responses.response_generation import ResponseGeneration
from semantic_trio.domain.errors import DrainingError, InvalidRequestError, SemanticError

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class ActiveResponses:
    """All turns under way. `run` lasts as long as the server, and makes those in the background."""

    _turns: dict[str, ResponseGeneration] = attrs.field(init=False, factory=dict)
    _background: trio.Nursery | None = attrs.field(init=False, default=None)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Make responses in the background until `stop`, and those that were begun to their end, which the end of the engine is."""
        async with trio.open_nursery() as self._background:
            task_status.started()
            await self._stopped.wait()
        self._background = None

    def stop(self) -> None:
        """Begin no more: the engine takes none."""
        self._stopped.set()

    def find(self, response_id: str) -> ResponseGeneration | None:
        """The turn that makes a response."""
        return self._turns.get(response_id)

    def refuse_unfinished(self, response_id: str, field: str) -> None:
        """Raises `InvalidRequestError` for a response that is being made and will be stored only when it has ended."""
        turn = self.find(response_id)
        if turn is not None and turn.is_stored and turn.final is None:
            raise InvalidRequestError(f"{response_id} has no answer yet: it is still being made", field)

    def join(self, turn: ResponseGeneration, stack: ExitStack) -> None:
        """A turn can be found until the stack is closed."""
        self._turns[turn.begun.id] = turn
        stack.callback(self._leave, turn)

    def start(self, turn: ResponseGeneration, stack: ExitStack) -> None:
        """Make a response in the background, and take from the stack what is to be released then. Raises `DrainingError` at the end of the server."""
        if self._background is None or self._stopped.is_set():
            raise DrainingError(1)
        self._background.start_soon(self._make, turn, stack.pop_all())

    async def _make(self, turn: ResponseGeneration, stack: ExitStack) -> None:
        with stack:
            try:
                await turn.result()
            except SemanticError as error:
                log.warning("response failed in the background", response=turn.begun.id, reason=str(error))
            except Exception:  # as a request's own failure, it is nobody else's
                log.exception("response failed in the background", response=turn.begun.id)

    def _leave(self, turn: ResponseGeneration) -> None:
        del self._turns[turn.begun.id]
        turn.over.set()
