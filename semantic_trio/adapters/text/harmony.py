"""Prompts of models that speak harmony (gpt-oss): messages with a header that names a channel.

Thoughts go to the channel `analysis`, calls and what is said before them to `commentary`, answers
to `final`. The model's template writes the front of a prompt, up to the first turn, and shows how
it writes a call and its result. Every other turn is written here, for the template shows neither
thoughts of earlier turns nor more than one call of a turn.
"""

import json

import attrs

from semantic_trio.adapters.text.calls import CallFormat
from semantic_trio.adapters.text.capabilities import TemplateCapabilities
from semantic_trio.adapters.text.generic import result_text
from semantic_trio.adapters.text.guard import Guard
from semantic_trio.adapters.text.harmony_frames import PLAIN_FRAMES, Frames, frames_of
from semantic_trio.adapters.text.harmony_reader import HarmonyReader
from semantic_trio.adapters.text.harmony_syntax import (
    ANALYSIS,
    ASSISTANT,
    CALL,
    CHANNEL,
    COMMENTARY,
    CONSTRAIN,
    END,
    FINAL,
    MESSAGE,
    START,
    THINKS,
    HarmonyCalls,
)
from semantic_trio.adapters.text.layout import (
    PromptLayout,
    SlotKind,
    Slots,
    SlotSpan,
    contents_of,
    encodable,
    splits_of,
)
from semantic_trio.adapters.text.shape import CallShape, MessageShape
from semantic_trio.adapters.text.switch import find_switch
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turn_builder import REMINDER, TurnBuilder
from semantic_trio.adapters.text.turns import REFUSALS, Render, turn
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Role,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.errors import InvalidRequestError

USER = "<|start|>user<|message|>"


@attrs.define
class _Draft:
    """Text of a prompt in the making, and the places of contents in it."""

    pieces: list[str] = attrs.field(factory=list)
    length: int = 0
    spans: dict[int, list[SlotSpan]] = attrs.field(factory=dict)
    splits: tuple[int, ...] = ()

    def frame(self, text: str) -> None:
        """Add words of the format."""
        self.pieces.append(text)
        self.length += len(text)

    def content(self, slots: Slots, text: str, owner: int, kind: SlotKind = SlotKind.WORDS) -> None:
        """Add a content."""
        _, [span] = slots.fill(slots.hold(text, owner, kind))
        start = self.length
        self.frame(span.slot.text)
        self.spans.setdefault(owner, []).append(SlotSpan(span.slot, start, self.length))

    @property
    def contents(self) -> tuple[tuple[int, int], ...]:
        """Places of contents in the text, in order."""
        return tuple(sorted(contents_of(span for spans in self.spans.values() for span in spans)))


@attrs.frozen
class HarmonyTemplate:
    """Renders conversations for one model, with the interface of `ChatTemplate`."""

    render: Render
    frames: Frames
    capabilities: TemplateCapabilities
    guard: Guard
    delimiters: ThoughtDelimiters = THINKS

    def prompt(self, conversation: Conversation) -> str:
        """The text of a conversation up to where the assistant is to speak.

        Raises `InvalidRequestError` where the template refuses.
        """
        return self.layout(conversation).text

    def layout(self, conversation: Conversation, known: int = 0) -> PromptLayout:
        """See `ChatTemplate.layout`."""
        draft = self._front(conversation)
        leading = conversation.leading
        called: dict[str, str] = {}
        starts = [
            draft.spans[at][0].start if at in draft.spans else draft.length for at in range(leading)
        ]
        ends = [
            draft.spans[at][-1].end if at in draft.spans else draft.length for at in range(leading)
        ]
        for owner, message in enumerate(conversation.messages[leading:], leading):
            start = draft.length + (len(ASSISTANT) if message.role is Role.ASSISTANT else 0)
            self._turn(draft, owner, message, called)
            spans = draft.spans.get(owner, [])
            starts.append(start if message.role is Role.ASSISTANT or not spans else spans[0].start)
            ends.append(spans[-1].end if spans else draft.length)
        certain = frozenset(
            at
            for at, message in enumerate(conversation.messages)
            if message.role is Role.ASSISTANT and at in draft.spans
        )
        draft.frame(ASSISTANT)
        opening = self.call_opening(conversation) or (
            FINAL + MESSAGE if _answers_only(conversation) else ""
        )
        if conversation.thinks is False and not opening:
            draft.frame(f"{ANALYSIS}<|message|>{END}{ASSISTANT}")
        draft.frame(opening)
        tools_end = 0 if conversation.tools else None
        return PromptLayout(
            "".join(draft.pieces),
            tuple(starts),
            tuple(ends),
            certain,
            tools_end,
            opening,
            draft.contents,
            draft.splits,
        )

    def call_opening(self, conversation: Conversation) -> str:
        """See `ChatTemplate.call_opening`."""
        choice, calls = conversation.choice, self.capabilities.calls
        if choice.calling is not Calling.REQUIRED or not conversation.tools:
            return ""
        return (
            calls.head
            if choice.name is None
            else calls.head + encodable(choice.name) + calls.middle
        )

    def calls_of(self, conversation: Conversation) -> CallFormat:
        """See `ChatTemplate.calls_of`."""
        return self.capabilities.calls

    @property
    def output_delimiters(self) -> str:
        """See `ChatTemplate.output_delimiters`."""
        return " ".join((START, CHANNEL, CONSTRAIN, MESSAGE, END))

    def reader(self, conversation: Conversation, opening: str, tally: CallTally) -> HarmonyReader:
        """See `ChatTemplate.reader`."""
        may_call = bool(conversation.tools) and conversation.choice.calling is not Calling.NONE
        return HarmonyReader(may_call, conversation.tools, opening, tally)

    def form(self, conversation: Conversation) -> Conversation:
        """See `ChatTemplate.form`. One call at a time is all that the format has."""
        return attrs.evolve(conversation, choice=attrs.evolve(conversation.choice, is_single=True))

    def _front(self, conversation: Conversation) -> _Draft:
        """Return the text in front of the first turn: the template's own system message, leading
        system messages, tools.
        """
        builder = TurnBuilder(self.capabilities, self.delimiters, -1, self.guard)
        slots = builder.slots
        leading = conversation.messages[: conversation.leading]
        words = "\n\n".join(
            slots.hold(message.text, owner) for owner, message in enumerate(leading)
        )
        turns = [turn(Role.SYSTEM, words)] if leading else []
        place = slots.hold("")
        try:
            tools = [builder.definition(tool) for tool in conversation.tools]
            text = self.render(
                [*turns, turn(Role.USER, place)],
                tools,
                switches=self.capabilities.switch.arguments(conversation),
            )
        except REFUSALS as error:
            raise InvalidRequestError(
                f"the model's chat template refuses this conversation: {error}", field="messages"
            ) from error
        front = encodable(text).partition(place)[0].removesuffix(USER)
        if lost := slots.lost(front):
            raise InvalidRequestError(
                f"the model's chat template leaves out message {lost[0][1].owner}", field="messages"
            )
        filled, spans = slots.fill(front)
        draft = _Draft([filled], len(filled), splits=splits_of(spans))
        for span in spans:
            if span.slot.kind is not SlotKind.SPLIT:
                draft.spans.setdefault(span.slot.owner, []).append(span)
        return draft

    def _turn(self, draft: _Draft, owner: int, message: Message, called: dict[str, str]) -> None:
        if message.role is Role.ASSISTANT:
            self._assistant(draft, owner, message, called)
            return
        for result in message.results:
            self._result(draft, owner, result, called.get(result.call_id, "unknown"))
        if message.text or not message.results:
            words = REMINDER.format(message.text) if message.role is Role.SYSTEM else message.text
            self._said(draft, USER, words, owner)

    def _assistant(
        self, draft: _Draft, owner: int, message: Message, called: dict[str, str]
    ) -> None:
        if message.thinking.strip():
            self._said(draft, f"{ASSISTANT}{ANALYSIS}<|message|>", message.thinking.strip(), owner)
        if message.text and message.calls:
            self._said(draft, f"{ASSISTANT}{COMMENTARY}<|message|>", message.text.rstrip(), owner)
        elif message.text or not message.parts:
            self._said(draft, f"{ASSISTANT}{FINAL}<|message|>", message.text, owner)
        for call in message.calls:
            called[call.id or str(len(called))] = call.name
            self._call(draft, owner, call)

    def _said(self, draft: _Draft, frame: str, words: str, owner: int) -> None:
        draft.frame(frame)
        draft.content(Slots(), words, owner)
        draft.frame(END)

    def _call(self, draft: _Draft, owner: int, call: ToolCall) -> None:
        draft.frame(ASSISTANT + self.frames.head)
        draft.content(Slots(), call.name, owner, SlotKind.NAME)
        draft.frame(self.frames.middle)
        draft.content(Slots(), call.arguments or "{}", owner, SlotKind.ARGUMENTS)
        draft.frame(CALL)

    def _result(self, draft: _Draft, owner: int, result: ToolResult, name: str) -> None:
        words, quote = result_text(result), '"' if self.frames.is_quoted else ""
        draft.frame(self.frames.result_head)
        draft.content(Slots(), name, owner, SlotKind.NAME)
        draft.frame(self.frames.result_middle + quote)
        draft.content(
            Slots(), json.dumps(words, ensure_ascii=False)[1:-1] if quote else words, owner
        )
        draft.frame(quote + END)


def _answers_only(conversation: Conversation) -> bool:
    """True if the answer has a schema and no call may come before it: its text then begins at
    once.
    """
    may_call = conversation.tools and conversation.choice.calling is not Calling.NONE
    return conversation.schema is not None and not may_call


def harmony(render: Render, template: str, guard: Guard) -> HarmonyTemplate | None:
    """The template of a model that speaks harmony; None for all others."""
    if not all(word in template for word in ("<|channel|>", "<|message|>", "<|start|>")):
        return None
    slots = Slots()
    try:
        if USER not in render([turn(Role.USER, slots.hold("a"))]):
            return None
    except REFUSALS:
        return None
    frames = next(frames_of(render), PLAIN_FRAMES)
    ways = dict.fromkeys((one.head, one.middle) for one in (frames, PLAIN_FRAMES))
    messages = MessageShape(
        (ANALYSIS + MESSAGE, COMMENTARY + MESSAGE), END + ASSISTANT, FINAL + MESSAGE, tuple(ways)
    )
    calls = CallFormat(
        is_native=True,
        syntax=HarmonyCalls(),
        head=frames.head,
        middle=frames.middle,
        shape=CallShape("", ""),
        messages=messages,
    )
    return HarmonyTemplate(
        render,
        frames,
        TemplateCapabilities(takes_late_system=False, switch=find_switch(render), calls=calls),
        guard,
    )
