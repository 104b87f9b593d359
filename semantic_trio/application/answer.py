"""One answer: a generation read as text, thoughts and calls, and remembered when it is over.

Knows its generation, its reader and whose words they are. Knows nothing of scheduling or of the wire.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import attrs
import trio

from semantic_trio.application.continuing import whole_turn
from semantic_trio.application.handle import Generation
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    Conversation,
    CutCall,
    Message,
    Part,
    Prompt,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
)
from semantic_trio.domain.generation import Event, Failed, Finished, FinishReason, TokenEvent
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.token_histories import Digest, TokenHistories, link
from semantic_trio.ports import AnswerReader

# Seconds between two looks at an answer that is wanted whole. It is read while it comes only because it may be over with its first call.
READ_SECONDS = 0.05

AnswerEvent = AnswerPart | Finished | Failed
Piece = TypeVar("Piece", Part, AnswerEvent)


@attrs.frozen
class Encoded:
    """A conversation, its name, and its tokens."""

    conversation: Conversation  # canonical
    digests: tuple[Digest, ...]  # of each of its beginnings
    prompt: Prompt
    tools: tuple[Tool, ...] = ()  # as they were offered, deferred ones too
    grammar: Grammar | None = None  # what the answer has to look like
    salt: Salt = NO_SALT

    def name_with(self, answer: tuple[Part, ...]) -> Digest | None:
        """The name of the conversation with an answer in it, as the next request will have it; None if the answer is empty."""
        called = {part.name for part in answer if isinstance(part, ToolCall)}
        tools = tuple(tool for tool in self.tools if tool.name in called)
        prefill, before = self.conversation.prefill, self.digests
        if prefill is not None:
            answer, before = whole_turn(prefill, answer), before[:-1]
        [message] = canonical(Conversation((Message(Role.ASSISTANT, answer),), tools)).messages
        return link(before[-1], message) if before and message.role is Role.ASSISTANT else None


@attrs.frozen
class WholeAnswer:
    """All of an answer, neighbouring pieces of text and of thought joined."""

    parts: tuple[Part, ...]
    finished: Finished
    scores: tuple[TokenEvent, ...] = ()  # of the tokens of its text, where they were asked for
    thought_tokens: int = 0
    cut: CutCall | None = None  # the call it ends with, where that was announced and is not whole

    @property
    def parts_with_cut(self) -> tuple[Part, ...]:
        """Its parts, with the call that is not whole as text."""
        return with_cut(self.parts, self.cut)

    @property
    def text(self) -> str:
        """Its text alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class PlainReader:
    """An `AnswerReader` to whom all is text."""

    def push(self, text: str) -> list[AnswerPart]:
        """See `AnswerReader.push`."""
        return [Text(text)] if text else []

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """See `AnswerReader.finish`."""
        return []

    @property
    def thoughts(self) -> None:
        """See `AnswerReader.thoughts`."""

    @property
    def is_over(self) -> bool:
        """See `AnswerReader.is_over`."""
        return False

    @property
    def apart(self) -> None:
        """See `AnswerReader.apart`."""


@attrs.define(eq=False)
class Answer:
    """Reads a generation once. `close` it as the generation itself: the tokens generated until then are kept as token history."""

    generation: Generation
    _encoded: Encoded
    _reader: AnswerReader
    _token_histories: TokenHistories
    _new_call_id: Callable[[], str]
    _ends_with_call: bool = False  # it may call once, and is over then
    _keeps_scores: bool = False
    thought_tokens: int = attrs.field(init=False, default=0)  # drawn for thoughts so far
    _unread: list[TokenEvent] = attrs.field(init=False, factory=list)  # tokens of which nothing has been told yet
    _scores: list[TokenEvent] = attrs.field(init=False, factory=list)
    _tokens: list[int] = attrs.field(init=False, factory=list)
    _pieces: list[Part] = attrs.field(init=False, factory=list)
    _call_id: str = attrs.field(init=False, default="")  # of the call that is being written
    _cut: CutCall | None = attrs.field(init=False, default=None)
    _is_over: bool = attrs.field(init=False, default=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has been told so far, neighbouring pieces joined."""
        return tuple(joined(self._pieces))

    @property
    def parts_with_cut(self) -> tuple[Part, ...]:
        """What has been told so far, with a call that turned out not to be whole as text."""
        return with_cut(self.parts, self._cut)

    async def receive(self) -> list[AnswerEvent]:
        """All events that have come, as soon as there is one; the last of all is `Finished` or `Failed`. To be cancelled loses nothing.

        Neighbouring pieces of a text, of a thought or of a call are one event.
        """
        told = list(self._waiting())
        while not told:
            told = list(self._heard(await self.generation.events.receive()))
        return _with_calls_joined(joined(told))

    async def result(self) -> WholeAnswer:
        """All of it. Raises the error of a generation that failed."""
        while True:
            last = (await self.receive())[-1]
            if isinstance(last, Failed):
                raise last.error
            if isinstance(last, Finished):
                return WholeAnswer(self.parts, last, self.take_scores(), self.thought_tokens, self._cut)
            await self.generation.wait(READ_SECONDS)

    def take_scores(self) -> tuple[TokenEvent, ...]:
        """The tokens of the text that was told since the last call, where they are kept."""
        scores, self._scores = tuple(self._scores), []
        return scores

    def close(self) -> None:
        """Give up what is still to come."""
        self.generation.close()
        if not self._is_over:
            self._remember((), tuple(self._tokens))

    def _waiting(self) -> Iterator[AnswerEvent]:
        while not self._is_over:
            try:
                yield from self._heard(self.generation.events.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    def _heard(self, event: Event) -> Iterator[AnswerEvent]:
        match event:
            case TokenEvent():
                self._tokens.append(event.token)
                self._unread.append(event)
                yield from self._until_enough(self._told(self._reader.push(event.text)))
                if self._reader.apart is not None:
                    self._count({self._reader.apart})
                if self._reader.is_over and not self._is_over:
                    yield self._cut_short(self._tokens[:-1])  # without its end, which the template says
            case Finished():
                ends_turn = event.reason is FinishReason.END_OF_TURN
                if ends_turn:
                    self._unread = self._unread[:-1]
                read = [*self._reader.push(event.text), *self._reader.finish(is_cut=not ends_turn)]
                allowed = self._allowed(read)
                yield from self._told(allowed)
                tokens = tuple(self._tokens[:-1] if ends_turn else self._tokens)  # the template says where a turn ends
                is_all = not event.stop_string and self._cut is None and len(allowed) == len(read)
                self._remember(self.parts if is_all else (), tokens)
                yield event if self._cut is None else broken(event)
            case Failed():
                self._is_over = True
                yield event

    def _is_last(self, part: AnswerPart) -> bool:
        """True if nothing may follow a part: it is a call that is not whole, or the only call that is allowed."""
        return isinstance(part, CutCall) or (self._ends_with_call and isinstance(part, ToolCall))

    def _allowed(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        """The parts up to the first that nothing may follow: some formats tell all calls at the end."""
        last = next((at for at, part in enumerate(parts) if self._is_last(part)), len(parts))
        return parts[: last + 1]

    def _until_enough(self, parts: Iterator[AnswerPart]) -> Iterator[AnswerEvent]:
        """The parts up to the first that nothing may follow, and behind that the end."""
        for part in parts:
            yield part
            if self._is_last(part):
                yield self._cut_short(self._tokens)
                return

    def _cut_short(self, tokens: Sequence[int]) -> Finished:
        """End the generation; `tokens` of it are remembered."""
        self.generation.close()
        self._remember(self.parts if self._cut is None else (), tuple(tokens))
        end = self.generation.cut_short(len(self._tokens))
        return end if self._cut is None else broken(end)

    def _told(self, parts: list[AnswerPart]) -> Iterator[AnswerPart]:
        if parts:
            self._count({type(part) for part in parts})
        for part in parts:
            told = self._with_id(part) if isinstance(part, ToolCall | CallPiece | CutCall) else part
            if isinstance(told, CutCall):
                self._cut = told
            elif not isinstance(told, CallPiece):
                self._pieces.append(told)
            yield told

    def _with_id(self, part: ToolCall | CallPiece | CutCall) -> ToolCall | CallPiece | CutCall:
        """A call, or a piece of one, with the id under which its client knows it."""
        self._call_id = self._call_id or self._new_call_id()
        named = attrs.evolve(part, id=self._call_id)
        if not isinstance(part, CallPiece):
            self._call_id = ""
        return named

    def _count(self, kinds: set[type[AnswerPart]]) -> None:
        """Say what the tokens were drawn for of which nothing had been told."""
        if Text in kinds and self._keeps_scores:
            self._scores += self._unread
        elif Thinking in kinds:
            self.thought_tokens += len(self._unread)
        self._unread.clear()

    def _remember(self, told: tuple[Part, ...], tokens: tuple[int, ...]) -> None:
        """Keep what was read and drawn, under the name of what was told; under none where that is not all that was drawn.

        Nothing is kept of an agent that was deleted meanwhile.
        """
        self._is_over, agent = True, self.generation.agent
        if tokens and self._encoded.digests and not (agent and agent.is_deleted):
            name = self._encoded.name_with(told) if told else None
            owner = agent.id if agent and agent.is_listed else ""
            self._token_histories.remember(self._encoded.digests, self._encoded.prompt.tokens, tokens, name, owner)


def broken(end: Finished) -> Finished:
    """The end of an answer whose last call is not whole: it was cut, and no client is to take the call for a whole one."""
    is_cut = end.reason in {FinishReason.MAX_TOKENS, FinishReason.CONTEXT_FULL}
    return end if is_cut else attrs.evolve(end, reason=FinishReason.BROKEN_CALL, stop_string=None)


def with_cut(parts: Sequence[Part], cut: CutCall | None) -> tuple[Part, ...]:
    """The parts of an answer, and behind them the call that is not whole as text."""
    return tuple(parts) if cut is None else tuple(joined([*parts, Text(cut.written)]))


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in order; those of a text that follow each other are one, and so are those of a thought."""
    whole: list[Piece] = []
    for kind, run in itertools.groupby(pieces, type):
        if issubclass(kind, Text | Thinking):
            whole.append(kind("".join(piece.text for piece in run if isinstance(piece, Text | Thinking))))
        else:
            whole.extend(run)
    return whole


def _with_calls_joined(events: Sequence[AnswerEvent]) -> list[AnswerEvent]:
    """Events in order; pieces of a call that follow each other are one."""
    whole: list[AnswerEvent] = []
    for event in events:
        last = whole[-1] if whole else None
        if isinstance(event, CallPiece) and isinstance(last, CallPiece):
            whole[-1] = attrs.evolve(last, arguments=last.arguments + event.arguments)
        else:
            whole.append(event)
    return whole
