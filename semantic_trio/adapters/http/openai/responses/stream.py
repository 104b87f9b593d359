"""The events of a response that streams.

Knows the order of events: items in ascending order, each added, sent in deltas, and done before the
next. Knows nothing of requests.
"""

from collections.abc import Iterator

import attrs
import msgspec

from semantic_trio.adapters.http.common.cache_report import Cache
from semantic_trio.adapters.http.openai.responses.output_items import ItemDelta
from semantic_trio.adapters.http.openai.responses.response_generation import (
    ResponseGeneration,
    response_error,
)
from semantic_trio.adapters.http.openai.responses.response_object import (
    OutputCustomCall,
    OutputFunctionCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputText,
    ReasoningText,
    ResponseAnswer,
)
from semantic_trio.adapters.http.serving.sse import encode_event
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.generation import Finished

# Most characters of a call's arguments in one event.
PIECE_CHARACTERS = 4096
PING = b": ping\n\n"  # each data line would be parsed as an event
# Names of the last event. A cancelled response has none of its own: its status says so.
COMPLETED = "response.completed"
UNFINISHED = "response.incomplete"


@attrs.define(eq=False)
class ResponseSignals:
    """The events that a response may have before its model is there."""

    _begun: ResponseAnswer
    ping: bytes = attrs.field(init=False, default=PING)

    def failure(self, error: SemanticError) -> bytes:
        """Encode `response.created`, which clients want first, and `response.failed`."""
        failed = attrs.evolve(
            self._begun, status="failed", error=response_error(error), store=False
        )
        return _event(0, "response.created", response=self._begun) + _event(
            1, "response.failed", response=failed
        )


@attrs.define(eq=False)
class ResponseEncoder:
    """Encodes `response.created` to the end of the response."""

    _generation: ResponseGeneration
    ping: bytes = attrs.field(init=False, default=PING)
    _number: int = attrs.field(init=False, default=0)  # number of the next event
    _at: int = attrs.field(init=False, default=-1)  # index of the open item; -1: none is open

    def opening(self) -> bytes:
        """Encode the first events of the response."""
        begun = self._generation.begun
        return self._event("response.created", response=begun) + self._event(
            "response.in_progress", response=begun
        )

    def part(self, part: ItemDelta) -> bytes:
        """Encode more of the open item, or the first delta of the next."""
        if part.at == self._at:
            return self._delta(part)
        closed, self._at = self._closed(), part.at
        return closed + self._opened(self._generation.output.begun(part)) + self._delta(part)

    def ending(self, finished: Finished) -> bytes:
        """Encode the end of the last item, and of the response."""
        closed, final = self._closed(), self._final()
        return closed + self._event(
            COMPLETED if final.status == "completed" else UNFINISHED,
            response=final,
            semantic_cache=Cache.of(finished.reuse),
        )

    def failure(self, error: SemanticError) -> bytes:
        """Encode `response.failed`, with the output so far."""
        return self._event("response.failed", response=self._final())

    def _final(self) -> ResponseAnswer:
        assert self._generation.final is not None  # the end is received only after `final` is set
        return self._generation.final

    def _opened(self, item: OutputItem) -> bytes:
        added = self._event(
            "response.output_item.added", output_index=self._at, item=_without_parts(item)
        )
        return added + b"".join(self._part_event("added", item.id, part) for part in _parts(item))

    def _delta(self, piece: ItemDelta) -> bytes:
        item = self._generation.output.item_of(piece)
        match item:
            case OutputMessage(content=(OutputText(text, logprobs),)):
                return self._of_part(
                    "response.output_text.delta", item.id, delta=text, logprobs=logprobs
                )
            case OutputReasoning(content=(ReasoningText(text),)):
                return self._of_part("response.reasoning_text.delta", item.id, delta=text)
            case OutputFunctionCall():
                return self._in_pieces(
                    "response.function_call_arguments.delta", item.id, item.arguments
                )
            case OutputCustomCall():
                return self._in_pieces("response.custom_tool_call_input.delta", item.id, item.input)
        raise AssertionError(item)

    def _closed(self) -> bytes:
        """Encode the end of the open item."""
        if self._at < 0:
            return b""
        item = self._item()
        said = self._whole_content(item)
        parts = b"".join(self._part_event("done", item.id, part) for part in _parts(item))
        return (
            said
            + parts
            + self._event("response.output_item.done", output_index=self._at, item=item)
        )

    def _item(self) -> OutputItem:
        """Return the open item, which is whole; of a response that has ended, its final item."""
        final = self._generation.final
        return self._generation.output.item(self._at) if final is None else final.output[self._at]

    def _whole_content(self, item: OutputItem) -> bytes:
        """Encode the event with the whole content, which was sent in deltas before."""
        match item:
            case OutputMessage(content=(OutputText(text, logprobs),)):
                return self._of_part(
                    "response.output_text.done", item.id, text=text, logprobs=logprobs
                )
            case OutputReasoning(content=(ReasoningText(text),)):
                return self._of_part("response.reasoning_text.done", item.id, text=text)
            case OutputFunctionCall():
                return self._of_item(
                    "response.function_call_arguments.done",
                    item.id,
                    name=item.name,
                    arguments=item.arguments,
                )
            case OutputCustomCall():
                return self._of_item(
                    "response.custom_tool_call_input.done", item.id, input=item.input
                )
        raise AssertionError(item)

    def _in_pieces(self, name: str, item_id: str, text: str) -> bytes:
        return b"".join(self._of_item(name, item_id, delta=piece) for piece in _pieces(text))

    def _part_event(self, what: str, item_id: str, part: OutputText | ReasoningText) -> bytes:
        return self._of_part(f"response.content_part.{what}", item_id, part=part)

    def _of_part(self, name: str, item_id: str, /, **fields: object) -> bytes:
        return self._of_item(name, item_id, content_index=0, **fields)

    def _of_item(self, name: str, item_id: str, /, **fields: object) -> bytes:
        return self._event(name, item_id=item_id, output_index=self._at, **fields)

    def _event(self, event: str, /, **fields: object) -> bytes:
        number, self._number = self._number, self._number + 1
        return _event(number, event, **fields)


def _event(number: int, name: str, /, **fields: object) -> bytes:
    return encode_event({"type": name, "sequence_number": number, **fields}, name)


def _without_parts(item: OutputItem) -> OutputItem:
    return (
        msgspec.structs.replace(item, content=())
        if isinstance(item, OutputMessage | OutputReasoning)
        else item
    )


def _parts(item: OutputItem) -> tuple[OutputText | ReasoningText, ...]:
    return item.content if isinstance(item, OutputMessage | OutputReasoning) else ()


def _pieces(text: str) -> Iterator[str]:
    return (
        text[start : start + PIECE_CHARACTERS] for start in range(0, len(text), PIECE_CHARACTERS)
    )
