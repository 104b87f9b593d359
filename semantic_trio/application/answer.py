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
from semantic_trio.domain.conversation import Conversation, Message, Part, Prompt, Role, Text, Thinking, Tool, ToolCall
from semantic_trio.domain.generation import Event, Failed, Finished, FinishReason, TokenEvent
from semantic_trio.domain.said import Digest, Said, link
from semantic_trio.domain.steering import Grammar
from semantic_trio.ports import AnswerReader

AnswerEvent = Part | Finished | Failed
Piece = TypeVar("Piece", Part, AnswerEvent)


@attrs.frozen
class Encoded:
    """A conversation, its name, and its tokens."""

    conversation: Conversation  # canonical
    digests: tuple[Digest, ...]  # of each of its beginnings
    prompt: Prompt
    tools: tuple[Tool, ...] = ()  # as they were offered, deferred ones too
    grammar: Grammar | None = None  # what the answer has to look like

    def name_with(self, answer: tuple[Part, ...]) -> Digest | None:
        """The name of the conversation with an answer in it, as the next request will have it; None where nothing was said."""
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

    @property
    def text(self) -> str:
        """Its text alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class PlainReader:
    """An `AnswerReader` to whom all is text."""

    def push(self, text: str) -> list[Part]:
        """See `AnswerReader.push`."""
        return [Text(text)] if text else []

    def finish(self, *, is_cut: bool = False) -> list[Part]:
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
    """Reads a generation once. `close` it as the generation itself: what was said until then is remembered."""

    generation: Generation
    _encoded: Encoded
    _reader: AnswerReader
    _said: Said
    _new_call_id: Callable[[], str]
    _ends_with_call: bool = False  # it may call once, and is over then
    _keeps_scores: bool = False
    thought_tokens: int = attrs.field(init=False, default=0)  # drawn for thoughts so far
    _unread: list[TokenEvent] = attrs.field(init=False, factory=list)  # tokens of which nothing has been told yet
    _scores: list[TokenEvent] = attrs.field(init=False, factory=list)
    _tokens: list[int] = attrs.field(init=False, factory=list)
    _pieces: list[Part] = attrs.field(init=False, factory=list)
    _is_over: bool = attrs.field(init=False, default=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has been told so far, neighbouring pieces joined."""
        return tuple(joined(self._pieces))

    async def receive(self) -> list[AnswerEvent]:
        """All events that have come, as soon as there is one; the last of all is `Finished` or `Failed`. To be cancelled loses nothing.

        Neighbouring pieces of a text, or of a thought, are one event.
        """
        told = list(self._waiting())
        while not told:
            told = list(self._heard(await self.generation.events.receive()))
        return joined(told)

    async def result(self) -> WholeAnswer:
        """All of it. Raises the error of a generation that failed."""
        while True:
            last = (await self.receive())[-1]
            if isinstance(last, Failed):
                raise last.error
            if isinstance(last, Finished):
                return WholeAnswer(self.parts, last, self.take_scores(), self.thought_tokens)

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
                self._remember(() if event.stop_string or len(allowed) < len(read) else self.parts, tokens)
                yield event
            case Failed():
                self._is_over = True
                yield event

    def _allowed(self, parts: list[Part]) -> list[Part]:
        """The parts up to the first call where there may be no other: some formats tell all calls at the end."""
        first = next((at for at, part in enumerate(parts) if isinstance(part, ToolCall)), len(parts))
        return parts[: first + 1] if self._ends_with_call else parts

    def _until_enough(self, parts: Iterator[Part]) -> Iterator[AnswerEvent]:
        """The parts, and the end after the first call where there may be no other."""
        for part in parts:
            yield part
            if self._ends_with_call and isinstance(part, ToolCall):
                yield self._cut_short(self._tokens)
                return

    def _cut_short(self, tokens: Sequence[int]) -> Finished:
        """End the generation; `tokens` of it are remembered."""
        self.generation.close()
        self._remember(self.parts, tuple(tokens))
        return self.generation.cut_short(len(self._tokens))

    def _told(self, parts: list[Part]) -> Iterator[Part]:
        if parts:
            self._count({type(part) for part in parts})
        for part in parts:
            told = attrs.evolve(part, id=self._new_call_id()) if isinstance(part, ToolCall) else part
            self._pieces.append(told)
            yield told

    def _count(self, kinds: set[type[Part]]) -> None:
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
            self._said.remember(self._encoded.digests, self._encoded.prompt.tokens, tokens, name, owner)


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in order; those of a text that follow each other are one, and so are those of a thought."""
    whole: list[Piece] = []
    for kind, run in itertools.groupby(pieces, type):
        if issubclass(kind, Text | Thinking):
            whole.append(kind("".join(piece.text for piece in run if isinstance(piece, Text | Thinking))))
        else:
            whole.extend(run)
    return whole
