"""A response while it is being generated: it is stored before its client sees the end.

Knows the answer, the output and the store. Knows nothing of requests or of events.
"""

import time

import attrs
import msgspec
import structlog
import trio

from semantic_trio.adapters.http.common.faults import fault_of
from semantic_trio.adapters.http.common.protocol import Protocol
from semantic_trio.adapters.http.openai.responses.output_items import ItemDelta, OutputItems
from semantic_trio.adapters.http.openai.responses.response_object import (
    ErrorCode,
    IncompleteDetails,
    ResponseAnswer,
    ResponseError,
    ResponseUsage,
    Status,
)
from semantic_trio.adapters.http.openai.responses.response_store import ResponseStoreClient
from semantic_trio.application.answer import READ_SECONDS, Answer
from semantic_trio.application.answer_parts import AnswerEvent
from semantic_trio.domain.conversation import Text
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Failed, Finished, FinishReason, TokenEvent
from semantic_trio.domain.responses import StoredResponse

log = structlog.get_logger(__name__)

CUT_OFF = frozenset({FinishReason.MAX_TOKENS, FinishReason.CONTEXT_FULL, FinishReason.BROKEN_CALL})


@attrs.define(eq=False)
class ResponseGeneration:
    """An `EventSource` of item deltas; `result` waits for the end.

    One task reads it; any task may `cancel` it.
    """

    begun: ResponseAnswer
    answer: Answer
    output: OutputItems
    _records: ResponseStoreClient
    _record: StoredResponse | None  # None: the response is not stored
    final: ResponseAnswer | None = attrs.field(init=False, default=None)
    # the response has ended, or its reader has left
    over: trio.Event = attrs.field(init=False, factory=trio.Event)
    # the end, stored but not received yet
    _ending: ResponseAnswer | None = attrs.field(init=False, default=None)
    # events not received yet
    _received: list[ItemDelta | Finished | Failed] = attrs.field(init=False, factory=list)
    _has_begun: bool = attrs.field(init=False, default=False)
    _is_cancelled: bool = attrs.field(init=False, default=False)

    @property
    def is_stored(self) -> bool:
        """True if the response can be retrieved by its id."""
        return self._record is not None

    @property
    def response(self) -> ResponseAnswer:
        """Return the response in its current state."""
        if self.final is not None:
            return self.final
        status: Status = "in_progress" if self._has_begun else self.begun.status
        return attrs.evolve(self.begun, status=status, output=self.output.items("in_progress"))

    async def receive(self) -> list[ItemDelta | Finished | Failed]:
        """See `EventSource`. The response is stored before its end is returned."""
        if not self._received:
            self._received = await self._receive_events()
        last = self._received[-1]
        if not isinstance(last, ItemDelta) and self.final is None:
            self._ending = self._ending or self._ended(last)
            self.final = await self._stored(self._ending)
            self.over.set()
        received, self._received = self._received, []
        return received

    async def result(self) -> Finished:
        """Wait for the end; `final` is the whole response.

        Raises the error of a failed generation.
        """
        while True:
            last = (await self.receive())[-1]
            if isinstance(last, Failed):
                raise last.error
            if isinstance(last, Finished):
                return last
            await self.answer.generation.wait(READ_SECONDS)

    def cancel(self) -> None:
        """Stop the generation; its reader receives the end.

        A response that has ended stays as it is.
        """
        if not self.answer.generation.is_over:
            self._is_cancelled = True
            self.answer.generation.close()

    async def put(self) -> None:
        """Store the beginning of the response. Raises `StoreError`."""
        record = self._record
        assert record is not None
        await self._records.call(lambda store: store.put(record))

    async def _receive_events(self) -> list[ItemDelta | Finished | Failed]:
        received: list[ItemDelta | Finished | Failed] = []
        while not received:
            try:
                events = await self.answer.receive()
            except trio.EndOfChannel:
                events = [self._broken_off()]
            self._has_begun = True
            for event in events:
                received += (
                    [event]
                    if isinstance(event, Finished | Failed)
                    else self.output.add(event, self._tokens(event))
                )
        return received

    def _tokens(self, event: AnswerEvent) -> tuple[TokenEvent, ...]:
        return self.answer.take_scores() if isinstance(event, Text) else ()

    def _broken_off(self) -> Finished:
        """Return the end of a generation that was closed."""
        return self.answer.generation.cut_short(len(self.answer.generation.stamps))

    def _ended(self, last: Finished | Failed) -> ResponseAnswer:
        if isinstance(last, Failed):
            return attrs.evolve(
                self.begun,
                status="failed",
                output=self.output.items("incomplete"),
                error=response_error(last.error),
            )
        self.output.add_rest(self.answer.take_scores())
        status: Status = (
            "cancelled"
            if self._is_cancelled
            else "incomplete"
            if last.reason in CUT_OFF
            else "completed"
        )
        return attrs.evolve(
            self.begun,
            status=status,
            output=self.output.items("completed" if status == "completed" else "incomplete"),
            completed_at=int(time.time()) if status == "completed" else None,
            incomplete_details=IncompleteDetails("max_output_tokens")
            if status == "incomplete"
            else None,
            usage=ResponseUsage.of(last, self.answer.thought_tokens),
        )

    async def _stored(self, ending: ResponseAnswer) -> ResponseAnswer:
        """Store the end where it has to be; the returned response says if it could not.

        A failed response is stored only if its beginning was.
        """
        if self._record is None or (ending.status == "failed" and not ending.background):
            return attrs.evolve(ending, store=False)
        record = self._record.answered(ending.status, msgspec.json.encode(ending))
        try:
            await self._records.call(lambda store: store.put(record))
        except SemanticError as error:
            log.error("response is not stored", response=ending.id, reason=str(error))
            return attrs.evolve(ending, store=False)
        return ending


def response_error(error: SemanticError) -> ResponseError:
    """Return an error as a failed response has it."""
    fault = fault_of(error, Protocol.OPENAI)
    code: ErrorCode = (
        "rate_limit_exceeded"
        if fault.status == 429
        else "server_error"
        if fault.status >= 500
        else "invalid_prompt"
    )
    return ResponseError(code, fault.message)
