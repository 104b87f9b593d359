"""Responses that are being generated, found by their ids, and background responses that outlive
their requests.

Knows generations of responses. Knows nothing of requests.
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
    """All responses under way.

    `run` lasts as long as the server, and generates background responses.
    """

    _generations: dict[str, ResponseGeneration] = attrs.field(init=False, factory=dict)
    _background: trio.Nursery | None = attrs.field(init=False, default=None)
    _stopped: trio.Event = attrs.field(init=False, factory=trio.Event)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Generate background responses until `stop`; those begun before are finished, at the
        latest with the end of the engine.
        """
        async with trio.open_nursery() as self._background:
            task_status.started()
            await self._stopped.wait()
        self._background = None

    def stop(self) -> None:
        """Begin no more background responses: the engine takes no more requests."""
        self._stopped.set()

    def find(self, response_id: str) -> ResponseGeneration | None:
        """Return the generation of a response."""
        return self._generations.get(response_id)

    def refuse_unfinished(self, response_id: str, field: str) -> None:
        """Raise `InvalidRequestError` for a response that is still being generated and not stored
        yet.
        """
        generation = self.find(response_id)
        if generation is not None and generation.is_stored and generation.final is None:
            raise InvalidRequestError(
                f"{response_id} has no answer yet: it is still being made", field
            )

    def join(self, generation: ResponseGeneration, stack: ExitStack) -> None:
        """Make a generation findable until the stack is closed."""
        self._generations[generation.begun.id] = generation
        stack.callback(self._remove, generation)

    def start(self, generation: ResponseGeneration, stack: ExitStack) -> None:
        """Generate a response in the background, with all that the stack releases.

        Raises `DrainingError` at the end of the server.
        """
        if self._background is None or self._stopped.is_set():
            raise DrainingError(1)
        self._background.start_soon(self._generate, generation, stack.pop_all())

    async def _generate(self, generation: ResponseGeneration, stack: ExitStack) -> None:
        with stack:
            try:
                await generation.result()
            except SemanticError as error:
                log.warning(
                    "response failed in the background",
                    response=generation.begun.id,
                    reason=str(error),
                )
            except (
                Exception
            ):  # the failure of one response, like that of one request, ends no other
                log.exception("response failed in the background", response=generation.begun.id)

    def _remove(self, generation: ResponseGeneration) -> None:
        del self._generations[generation.begun.id]
        generation.over.set()
