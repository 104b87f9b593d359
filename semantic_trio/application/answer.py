"""One answer: a generation read as text, thoughts and calls, and remembered when it is over.

Knows its generation, its reader and whose words they are. Knows nothing of scheduling or of the wire.
"""

from collections.abc import Callable, Iterator

import attrs
import trio

from semantic_trio.application.handle import Generation
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import Conversation, Message, Part, Prompt, Role, Text, Thinking, Tool, ToolCall
from semantic_trio.domain.generation import Event, Failed, Finished, FinishReason, TokenEvent
from semantic_trio.domain.said import Digest, Said, link
from semantic_trio.ports import AnswerReader

AnswerEvent = Part | Finished | Failed


@attrs.frozen
class Encoded:
    """A conversation, its name, and its tokens."""

    conversation: Conversation  # canonical
    digests: tuple[Digest, ...]  # of each of its beginnings
    prompt: Prompt
    tools: tuple[Tool, ...] = ()  # as they were offered, deferred ones too

    def name_with(self, answer: tuple[Part, ...]) -> Digest | None:
        """The name of the conversation with an answer in it, as the next request will have it; None where nothing was said."""
        called = {part.name for part in answer if isinstance(part, ToolCall)}
        tools = tuple(tool for tool in self.tools if tool.name in called)
        [message] = canonical(Conversation((Message(Role.ASSISTANT, answer),), tools)).messages
        return link(self.digests[-1], message) if message.role is Role.ASSISTANT else None


@attrs.frozen
class WholeAnswer:
    """All of an answer, neighbouring pieces of text and of thought joined."""

    parts: tuple[Part, ...]
    finished: Finished

    @property
    def text(self) -> str:
        """Its text alone."""
        return "".join(part.text for part in self.parts if isinstance(part, Text))


@attrs.define(eq=False)
class Answer:
    """Reads a generation once. `close` it as the generation itself: what was said until then is remembered."""

    generation: Generation
    _encoded: Encoded
    _reader: AnswerReader
    _said: Said
    _new_call_id: Callable[[], str]
    _call_end: str
    _tokens: list[int] = attrs.field(init=False, factory=list)
    _pieces: list[Part] = attrs.field(init=False, factory=list)
    _is_over: bool = attrs.field(init=False, default=False)

    @property
    def parts(self) -> tuple[Part, ...]:
        """What has been told so far, neighbouring pieces joined."""
        return tuple(self._pieces)

    async def receive(self) -> list[AnswerEvent]:
        """What has come, as soon as there is anything; the last of all is `Finished` or `Failed`. To be cancelled loses nothing."""
        told: list[AnswerEvent] = []
        while not told:
            told += self._heard(await self.generation.events.receive())
            told += self._waiting()
        return told

    async def result(self) -> WholeAnswer:
        """All of it. Raises the error of a generation that failed."""
        while True:
            last = (await self.receive())[-1]
            if isinstance(last, Failed):
                raise last.error
            if isinstance(last, Finished):
                return WholeAnswer(self.parts, last)

    def close(self) -> None:
        """Give up what is still to come."""
        self.generation.close()
        if not self._is_over:
            self._remember(None)

    def _waiting(self) -> Iterator[AnswerEvent]:
        while True:
            try:
                yield from self._heard(self.generation.events.receive_nowait())
            except (trio.WouldBlock, trio.EndOfChannel):
                return

    def _heard(self, event: Event) -> Iterator[AnswerEvent]:
        match event:
            case TokenEvent():
                self._tokens.append(event.token)
                yield from self._told(self._reader.push(event.text))
            case Finished():
                yield from self._told([*self._reader.push(event.text), *self._reader.finish()])
                self._remember(event)
                yield event
            case Failed():
                self._is_over = True
                yield event

    def _told(self, parts: list[Part]) -> Iterator[Part]:
        for part in parts:
            told = attrs.evolve(part, id=self._new_call_id()) if isinstance(part, ToolCall) else part
            self._pieces[-1:] = _joined(self._pieces[-1:], told)
            yield told

    def _remember(self, finished: Finished | None) -> None:
        self._is_over = True
        if not self._tokens:
            return
        tokens, told = tuple(self._tokens), None
        if finished is not None and finished.reason is FinishReason.END_OF_TURN:
            tokens = tokens[:-1]  # the template says where a turn ends
        if finished is not None and finished.stop_string in (None, self._call_end):
            told = self._encoded.name_with(self.parts)
        self._said.remember(self._encoded.digests, self._encoded.prompt.tokens, tokens, told)


def _joined(before: list[Part], part: Part) -> list[Part]:
    """The last part and a new one; text goes on text, thought on thought."""
    match before, part:
        case [Text(said)], Text(more):
            return [Text(said + more)]
        case [Thinking(said)], Thinking(more):
            return [Thinking(said + more)]
    return [*before, part]
