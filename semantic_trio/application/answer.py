"""Answers: the events of a generation parsed into text, thoughts and calls, and kept as token
history at the end.

Knows its generation, its parser and the conversation. Knows nothing of scheduling or of the wire.
"""

from collections.abc import Callable, Iterator, Sequence

import attrs
import trio

from semantic_trio.application.answer_parts import (
    AnswerEvent,
    broken,
    joined,
    with_calls_joined,
    with_cut,
)
from semantic_trio.application.continuing import whole_turn
from semantic_trio.application.generation import Generation
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    AnswerPart,
    CallPiece,
    Conversation,
    CutCall,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
)
from semantic_trio.domain.conversation_digests import Digest, link
from semantic_trio.domain.generation import Event, Failed, Finished, FinishReason, TokenEvent
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.prompt import Prompt
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.steering import Grammar
from semantic_trio.ports.text import AnswerReader

# Seconds between two reads of an answer that is wanted whole. It is read meanwhile only because it
# may end with its first call.
READ_SECONDS = 0.05


@attrs.frozen
class Encoded:
    """A conversation with its digests and its prompt."""

    conversation: Conversation  # canonical
    digests: tuple[Digest, ...]  # of each of its beginnings
    prompt: Prompt
    tools: tuple[Tool, ...] = ()  # all that were offered, deferred ones too
    grammar: Grammar | None = None  # that the answer has to match
    salt: Salt = NO_SALT
    tokenization_seconds: float = 0.0  # that the prompt took, with the wait for a thread

    def digest_with(self, answer: tuple[Part, ...]) -> Digest | None:
        """Return the digest of the conversation with an answer added, as the next request will have
        it; None if the answer is empty.
        """
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
    scores: tuple[TokenEvent, ...] = ()  # of the tokens of its text, if the request asks for them
    thought_tokens: int = 0
    cut: CutCall | None = None  # the last call, if it was announced and is incomplete

    @property
    def parts_with_cut(self) -> tuple[Part, ...]:
        """Parts of the answer, with an incomplete call as text."""
        return with_cut(self.parts, self.cut)

    @property
    def text(self) -> str:
        """Text of the answer, without thoughts and calls."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


class PlainReader:
    """An `AnswerReader` that takes everything as text."""

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
    """Reads a generation once.

    `close` it as the generation itself: the tokens generated until then are kept as token history.
    """

    generation: Generation
    _encoded: Encoded
    _reader: AnswerReader
    _memory: Memory
    _new_call_id: Callable[[], str]
    _ends_with_call: bool = False  # True: the answer ends after its first call
    _keeps_scores: bool = False
    thought_tokens: int = attrs.field(init=False, default=0)  # tokens of thoughts so far
    # tokens that have given no part yet
    _unread: list[TokenEvent] = attrs.field(init=False, factory=list)
    _scores: list[TokenEvent] = attrs.field(init=False, factory=list)
    _tokens: list[int] = attrs.field(init=False, factory=list)
    _pieces: list[Part] = attrs.field(init=False, factory=list)
    _call_id: str = attrs.field(init=False, default="")  # of the call that is being generated
    _cut: CutCall | None = attrs.field(init=False, default=None)
    _is_over: bool = attrs.field(init=False, default=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """Parts parsed so far, neighbouring pieces joined."""
        return tuple(joined(self._pieces))

    @property
    def parts_with_cut(self) -> tuple[Part, ...]:
        """Parts parsed so far, with an incomplete call as text."""
        return with_cut(self.parts, self._cut)

    async def receive(self) -> list[AnswerEvent]:
        """Wait for an event and return all that have come; the last of all is `Finished` or
        `Failed`.

        Cancelling loses no event.

        Neighbouring pieces of a text, of a thought or of a call are one event.
        """
        events = list(self._waiting())
        while not events:
            events = list(self._parsed(await self.generation.events.receive()))
        return with_calls_joined(joined(events))

    async def result(self) -> WholeAnswer:
        """Return the whole answer. Raises the error of a generation that failed."""
        while True:
            last = (await self.receive())[-1]
            if isinstance(last, Failed):
                raise last.error
            if isinstance(last, Finished):
                return WholeAnswer(
                    self.parts, last, self.take_scores(), self.thought_tokens, self._cut
                )
            await self.generation.wait(READ_SECONDS)

    def take_scores(self) -> tuple[TokenEvent, ...]:
        """Return the tokens of the text parsed since the last call, if they are kept."""
        scores, self._scores = tuple(self._scores), []
        return scores

    def close(self) -> None:
        """Cancel the rest of the generation, and keep the token history until here."""
        self.generation.close()
        if not self._is_over:
            self._remember((), tuple(self._tokens))

    def _waiting(self) -> Iterator[AnswerEvent]:
        while not self._is_over:
            try:
                yield from self._parsed(self.generation.events.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    def _parsed(self, event: Event) -> Iterator[AnswerEvent]:
        match event:
            case TokenEvent():
                self._tokens.append(event.token)
                self._unread.append(event)
                yield from self._until_enough(self._with_ids(self._reader.push(event.text)))
                if self._reader.apart is not None:
                    self._count({self._reader.apart})
                if self._reader.is_over and not self._is_over:
                    # without the end of turn, which the template adds
                    yield self._cut_short(self._tokens[:-1])
            case Finished():
                ends_turn = event.reason is FinishReason.END_OF_TURN
                if ends_turn:
                    self._unread = self._unread[:-1]
                read = [*self._reader.push(event.text), *self._reader.finish(is_cut=not ends_turn)]
                allowed = self._allowed(read)
                yield from self._with_ids(allowed)
                # the template adds the end of the turn
                tokens = tuple(self._tokens[:-1] if ends_turn else self._tokens)
                is_all = not event.stop_string and self._cut is None and len(allowed) == len(read)
                self._remember(self.parts if is_all else (), tokens)
                yield event if self._cut is None else broken(event)
            case Failed():
                self._is_over = True
                yield event

    def _is_last(self, part: AnswerPart) -> bool:
        """True if nothing may follow a part: it is a call that is not whole, or the only call that
        is allowed.
        """
        return isinstance(part, CutCall) or (self._ends_with_call and isinstance(part, ToolCall))

    def _allowed(self, parts: list[AnswerPart]) -> list[AnswerPart]:
        """The parts up to the first that nothing may follow: in some formats all calls come at the
        end.
        """
        last = next((at for at, part in enumerate(parts) if self._is_last(part)), len(parts))
        return parts[: last + 1]

    def _until_enough(self, parts: Iterator[AnswerPart]) -> Iterator[AnswerEvent]:
        """Yield the parts up to the first that nothing may follow, and then the end."""
        for part in parts:
            yield part
            if self._is_last(part):
                yield self._cut_short(self._tokens)
                return

    def _cut_short(self, tokens: Sequence[int]) -> Finished:
        """End the generation; `tokens` of it are kept as token history."""
        self.generation.close()
        self._remember(self.parts if self._cut is None else (), tuple(tokens))
        end = self.generation.cut_short(len(self._tokens))
        return end if self._cut is None else broken(end)

    def _with_ids(self, parts: list[AnswerPart]) -> Iterator[AnswerPart]:
        if parts:
            self._count({type(part) for part in parts})
        for part in parts:
            named = (
                self._with_id(part) if isinstance(part, ToolCall | CallPiece | CutCall) else part
            )
            if isinstance(named, CutCall):
                self._cut = named
            elif not isinstance(named, CallPiece):
                self._pieces.append(named)
            yield named

    def _with_id(self, part: ToolCall | CallPiece | CutCall) -> ToolCall | CallPiece | CutCall:
        """Return a call, or a piece of one, with the id that its client gets."""
        self._call_id = self._call_id or self._new_call_id()
        named = attrs.evolve(part, id=self._call_id)
        if not isinstance(part, CallPiece):
            self._call_id = ""
        return named

    def _count(self, kinds: set[type[AnswerPart]]) -> None:
        """Count the tokens that have given no part yet as tokens of these kinds of parts."""
        if Text in kinds and self._keeps_scores:
            self._scores += self._unread
        elif Thinking in kinds:
            self.thought_tokens += len(self._unread)
        self._unread.clear()

    def _remember(self, sent: tuple[Part, ...], tokens: tuple[int, ...]) -> None:
        """Keep prompt and tokens as token history of the conversation with the parts that were
        `sent`; none if the tokens hold more than those.

        Nothing is kept for an agent that was deleted meanwhile.
        """
        self._is_over, agent = True, self.generation.agent
        if tokens and self._encoded.digests and not (agent and agent.is_deleted):
            digest = self._encoded.digest_with(sent) if sent else None
            owner = agent.id if agent and agent.is_listed else ""
            self._memory.keep_tokens(
                self._encoded.digests, self._encoded.prompt.tokens, tokens, digest, owner
            )
