"""Chat template of a model, with substitutes for what the template cannot express.

Templates differ in where they accept a system message, whether one role may have two turns in a
row, and in their support of tools and thoughts: see `TemplateCapabilities`. The thoughts of every
answer are rendered, of earlier turns too, so that known tokens never change.
"""

from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.calls import GENERIC, CallFormat, without_empty_thoughts
from semantic_trio.adapters.text.capabilities import TemplateCapabilities
from semantic_trio.adapters.text.guard import NO_GUARD, Guard
from semantic_trio.adapters.text.layout import (
    NOBODY,
    PromptLayout,
    SlotKind,
    Slots,
    SlotSpan,
    contents_of,
    encodable,
    splits_of,
)
from semantic_trio.adapters.text.order import in_order
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turn_builder import TurnBuilder
from semantic_trio.adapters.text.turns import REFUSALS, Render, Switches, Turn, turn
from semantic_trio.domain.conversation import Calling, Conversation, Message, Role
from semantic_trio.domain.errors import InvalidRequestError


@attrs.frozen
class ChatTemplate:
    """Renders conversations for one model."""

    render: Render
    delimiters: ThoughtDelimiters
    capabilities: TemplateCapabilities
    syntaxes: tuple[ToolSyntax, ...] = ()  # formats of calls that the template's text shows
    guard: Guard = NO_GUARD

    def prompt(self, conversation: Conversation) -> str:
        """Return the text of a conversation up to the assistant's next turn.

        Raises `InvalidRequestError` where the template refuses the conversation.
        """
        return self.layout(conversation).text

    def layout(self, conversation: Conversation, known: int = 0) -> PromptLayout:
        """Return the same text with the positions of messages, tools and contents.

        The message before number `known` may be rendered with other arguments, so that its end is
        certain. Raises `InvalidRequestError`.
        """
        builder = TurnBuilder(self.capabilities, self.delimiters, known - 1, self.guard)
        turns = in_order(builder.turns(conversation), self.capabilities)
        tools = (
            [builder.definition(tool) for tool in conversation.tools]
            if self.capabilities.calls.renders_tools
            else []
        )
        try:
            skeleton = self.render(
                self._worded(turns, conversation), tools, switches=self._switches(conversation)
            )
        except RecursionError as error:
            raise InvalidRequestError(
                "a schema or the arguments of a call are nested too deeply for the chat template",
                "tools",
            ) from error
        except REFUSALS as error:
            raise InvalidRequestError(
                f"the model's chat template refuses this conversation: {error}", field="messages"
            ) from error
        skeleton = without_empty_thoughts(
            encodable(skeleton), self.delimiters, self.capabilities.calls.syntax.start
        )
        text, spans = builder.slots.fill(self._with_lost_words(skeleton, builder.slots))
        return self._measured(text, spans, conversation)

    def call_opening(self, conversation: Conversation) -> str:
        """Return the beginning of the call that the answer has to be, with its name where that is
        given; else nothing.
        """
        choice, calls = conversation.choice, self.calls_of(conversation)
        if choice.calling is not Calling.REQUIRED or not conversation.tools:
            return ""
        return (
            calls.head
            if choice.name is None
            else calls.head + calls.spelled(choice.name) + calls.middle
        )

    def reader(self, conversation: Conversation, opening: str, tally: CallTally) -> DelimiterReader:
        """Return a reader for the answer to a conversation; the answer begins with `opening`."""
        may_call = conversation.tools and conversation.choice.calling is not Calling.NONE
        syntaxes = self.syntaxes_of(conversation) if may_call else ()
        return DelimiterReader(
            self.delimiters,
            syntaxes,
            conversation.tools,
            opening,
            conversation.schema is not None,
            tally,
        )

    def form(self, conversation: Conversation) -> Conversation:
        """Return the conversation with the demands on its answer that a grammar can enforce."""
        return conversation

    def calls_of(self, conversation: Conversation) -> CallFormat:
        """Return the format of the answer's calls: the model's own, or that of Hermes.

        Hermes is used where a call is demanded that no grammar can express in the model's own
        format.
        """
        choice, calls = conversation.choice, self.capabilities.calls
        asked = [tool for tool in conversation.tools if choice.name in {None, tool.name}]
        return (
            GENERIC
            if choice.calling is Calling.REQUIRED and not all(map(calls.can_say, asked))
            else calls
        )

    def syntaxes_of(self, conversation: Conversation) -> tuple[ToolSyntax, ...]:
        """Return the formats of calls in the answer: the one in the prompt first, then those that
        the model may have learnt.
        """
        first = self.calls_of(conversation).syntax
        return (first, *(syntax for syntax in self.syntaxes if syntax != first))

    @property
    def output_delimiters(self) -> str:
        """Delimiters of thoughts and calls in the model's output, joined by blanks."""
        calls = self.capabilities.calls
        written = [
            text
            for syntax in (calls.syntax, *self.syntaxes)
            for text in (*syntax.openings, syntax.end, *syntax.delimiters)
        ]
        return " ".join((self.delimiters.start, self.delimiters.end, calls.sample, *written))

    def _switches(self, conversation: Conversation) -> Switches:
        return self.capabilities.switch.arguments(
            conversation, is_called=bool(self.call_opening(conversation))
        )

    def _worded(self, turns: list[Turn], conversation: Conversation) -> list[Turn]:
        """Return the turns with the word that switches thinking in the system message, where the
        template looks for one.
        """
        word = self.capabilities.switch.word(conversation)
        if not word:
            return turns
        if not turns or turns[0]["role"] != Role.SYSTEM:
            return [turn(Role.SYSTEM, word), *turns]
        return [{**turns[0], "content": f"{turns[0]['content']}\n{word}"}, *turns[1:]]

    def _with_lost_words(self, skeleton: str, slots: Slots) -> str:
        """Put text that the template has left out in front of the calls, for that is where some
        templates leave it out.
        """
        head = self.capabilities.calls.head
        for placeholder, slot in slots.lost(skeleton):
            at = slots.first_name(slot.owner, skeleton)
            if at < 0 or not skeleton.endswith(head, 0, at):
                raise InvalidRequestError(
                    f"the model's chat template leaves out message {slot.owner}", field="messages"
                )
            at -= len(head)
            skeleton = skeleton[:at] + placeholder + skeleton[at:]
        return skeleton

    def _measured(
        self, text: str, spans: Sequence[SlotSpan], conversation: Conversation
    ) -> PromptLayout:
        by_owner: dict[int, list[SlotSpan]] = {}
        for span in spans:
            if span.slot.kind is not SlotKind.SPLIT:
                by_owner.setdefault(span.slot.owner, []).append(span)
        starts, ends, certain, at = [], [], set(), 0
        for number, message in enumerate(conversation.messages):
            start, end, is_certain = self._bounds(text, by_owner.get(number, []), message)
            at = max(at, start)
            starts.append(at)
            at = max(at, end)
            ends.append(at)
            certain |= {number} if is_certain else set()
        text, opening = self._opened(text, conversation, at)
        tools = by_owner.get(NOBODY, [])
        tools_end = (tools[-1].end if tools else 0) if conversation.tools else None
        return PromptLayout(
            text,
            tuple(starts),
            tuple(ends),
            frozenset(certain),
            tools_end,
            opening,
            contents_of(spans),
            splits_of(spans),
        )

    def _bounds(
        self, text: str, spans: Sequence[SlotSpan], message: Message
    ) -> tuple[int, int, bool]:
        """Return the start and the end of a message in the text, and True if the end is certain."""
        if not spans:
            return 0, 0, False
        calls, start, last = self.capabilities.calls, spans[0].start, spans[-1]
        if spans[0].slot.kind is SlotKind.NAME and text.endswith(calls.head, 0, start):
            start -= len(calls.head)
        if not (message.calls and calls.is_native):
            return start, last.end, message.role is Role.ASSISTANT
        trailer = (
            calls.trailer.match(text, last.end) if last.slot.kind is SlotKind.ARGUMENTS else None
        )
        return (start, last.end, False) if trailer is None else (start, trailer.end(), True)

    def _opened(self, text: str, conversation: Conversation, end: int) -> tuple[str, str]:
        """Return the text with the demanded beginning of the answer, and that beginning."""
        at = text.rfind(self.delimiters.start, end)
        opening = text[at:] if at >= 0 and self.delimiters.end not in text[at:] else ""
        call = self.call_opening(conversation)
        if opening and (call or conversation.thinks is False):
            text, opening = self.delimiters.closed(text), ""
        return (text + call, call) if call else (text, opening)
