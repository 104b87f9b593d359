"""Answers in the harmony format taken apart while they come.

An answer is messages: a header up to `<|message|>`, a body, and an end. What the format does not
allow is read by rule: a message without a channel is text, as is one of an unknown channel; a body
ends where another header begins; a message of another role is left out with all that follows it; a
call that is not whole is text.
"""

import enum
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.harmony_syntax import (
    ANALYSIS,
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    FINAL,
    MESSAGE,
    RETURN,
    START,
    HarmonyCalls,
    MessageHeader,
)
from semantic_trio.adapters.text.layout import encodable
from semantic_trio.adapters.text.tally import CallOutcome, CallTally
from semantic_trio.domain.conversation import (
    AnswerPart,
    CutCall,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
)
from semantic_trio.domain.open_call import OpenCall
from semantic_trio.domain.stopping import Thoughts, begun

# Words that a header may begin with; anything else is text without a header.
HEADS = (CHANNEL, MESSAGE, CONSTRAIN, START, "to=")
# Words that end a body; the last two begin the next header.
ENDS = (END, CALL, RETURN, START, CHANNEL)
# Characters of the longest header: a name of a tool, and the words of the format.
LONGEST_HEADER = 300


class _State(enum.Enum):
    BETWEEN = enum.auto()  # behind the end of a message
    HEADER = enum.auto()
    THOUGHT = enum.auto()
    TEXT = enum.auto()
    CALL = enum.auto()
    OVER = enum.auto()


@attrs.define(eq=False)
class HarmonyReader:
    """An `AnswerReader` over messages."""

    _may_call: bool
    _tools: Sequence[Tool] = ()
    # text not yet returned; at first the beginning of the answer that the prompt ends with
    _held: str = ""
    _tally: CallTally = attrs.field(factory=CallTally)
    thoughts: Thoughts = attrs.field(init=False)
    _state: _State = attrs.field(init=False, default=_State.HEADER)
    _header: str = attrs.field(init=False, default="")  # as it is written
    # type of the last returned part
    _last: type[Part] | None = attrs.field(init=False, default=None)
    _call: OpenCall | None = attrs.field(init=False, default=None)  # the call that is being written
    _is_begun: bool = attrs.field(init=False, default=False)  # of a body: some of it was returned
    _is_cut: bool = attrs.field(init=False, default=False)  # the answer was not ended by the model
    _is_answered: bool = attrs.field(init=False, default=False)  # an answer was ended

    def __attrs_post_init__(self) -> None:
        # No stop string is looked for in headers either, so all before the first answer counts as
        # thought.
        self.thoughts = Thoughts(CHANNEL, f"{FINAL}{MESSAGE}", is_open=True)

    @property
    def is_over(self) -> bool:
        """See `AnswerReader.is_over`."""
        return self._is_answered

    @property
    def apart(self) -> type[Part] | None:
        """See `AnswerReader.apart`. Headers are counted as thoughts."""
        is_text = self._state is _State.TEXT and self._is_begun
        return None if is_text or self._state is _State.CALL else Thinking

    def push(self, text: str) -> list[AnswerPart]:
        """See `AnswerReader.push`."""
        self._held += text
        return self._read(is_all=False)

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """See `AnswerReader.finish`."""
        self._is_cut = is_cut
        return self._read(is_all=True)

    def _read(self, *, is_all: bool) -> list[AnswerPart]:
        parts: list[AnswerPart] = []
        before: tuple[_State, int] | None = None
        while before != (self._state, len(self._held)) and (
            self._held or (is_all and self._state is _State.CALL)
        ):
            before = self._state, len(self._held)
            parts += self._step(is_all)
        return parts

    def _step(self, is_all: bool) -> list[AnswerPart]:
        match self._state:
            case _State.BETWEEN:
                return self._between(is_all)
            case _State.HEADER:
                return self._head(is_all)
            case _State.OVER:
                self._held = ""
                return []
        return self._body(is_all)

    def _between(self, is_all: bool) -> list[AnswerPart]:
        """A role, or text that has none."""
        self._held = self._held.lstrip()
        if self._held.startswith(START):
            role = self._held.removeprefix(START)
            if not role.startswith("assistant"):
                if is_all or not "assistant".startswith(role):
                    self._state = _State.OVER
                return []
            self._held = role.removeprefix("assistant")
        elif not is_all and START.startswith(self._held):
            return []
        self._state = _State.HEADER
        return []

    def _head(self, is_all: bool) -> list[AnswerPart]:
        held = self._held.lstrip()
        if not any(held.startswith(word) for word in HEADS):
            if is_all or not any(word.startswith(held) for word in HEADS):
                self._open(_State.TEXT, "", self._held)
            return []
        if held.startswith(START):
            self._state, self._held = _State.BETWEEN, held
            return []
        header, found, body = held.partition(MESSAGE)
        if len(header) - begun(header, MESSAGE) > LONGEST_HEADER:
            word = next(word for word in HEADS if held.startswith(word))
            self._open(_State.TEXT, "", held.removeprefix(word))
            return self._parts_of(word)
        if found:
            self._open(self._kind(header), header + MESSAGE, body)
        elif is_all:
            self._held = ""  # half a header is nothing that was said
        return []

    def _kind(self, header: str) -> _State:
        found = MessageHeader.of(header)
        if self._may_call and found.called(self._tools):
            return _State.CALL
        return _State.THOUGHT if found.channel == ANALYSIS.removeprefix(CHANNEL) else _State.TEXT

    def _open(self, state: _State, header: str, body: str) -> None:
        self._state, self._header, self._held, self._is_begun = state, header, body, False
        name = MessageHeader.of(header).called(self._tools) if state is _State.CALL else ""
        self._call = OpenCall(name, 0) if any(tool.name == name for tool in self._tools) else None

    def _body(self, is_all: bool) -> list[AnswerPart]:
        found = [(at, word) for word in ENDS if (at := self._held.find(word)) >= 0]
        if found:
            at, word = min(found)
            body, self._held = (
                self._held[:at],
                self._held[at:] if word in {START, CHANNEL} else self._held[at + len(word) :],
            )
            return [*self._pieces(body), *self._closed(body, word)]
        if is_all:
            body, self._held = self._held, ""
            return [*self._pieces(body), *self._closed(body, "")]
        body = self._held[: len(self._held) - max(begun(self._held, word) for word in ENDS)]
        if self._state is _State.CALL:
            return self._pieces(body)
        if self._state is _State.THOUGHT:
            body = body.rstrip()
        self._held = self._held[len(body) :]
        return self._parts_of(body)

    def _closed(self, body: str, end: str) -> list[AnswerPart]:
        """The rest of a body."""
        parts = self._called(body, end) if self._state is _State.CALL else self._parts_of(body)
        self._is_answered = (
            self._state is _State.TEXT
            and end == END
            and MessageHeader.of(self._header).channel == FINAL.removeprefix(CHANNEL)
        )
        self._state = (
            _State.OVER
            if self._is_answered
            else _State.HEADER
            if end == CHANNEL
            else _State.BETWEEN
        )
        return parts

    def _parts_of(self, body: str) -> list[AnswerPart]:
        kind = Thinking if self._state is _State.THOUGHT else Text
        if kind is Thinking:
            body = body.rstrip() if self._is_begun else body.strip()
        if not body:
            return []
        # a message of its own, right behind another one
        gap = "\n\n" if self._last is kind and not self._is_begun else ""
        self._is_begun, self._last = True, kind
        return [kind(gap + body)]

    def _pieces(self, body: str) -> list[AnswerPart]:
        """Return new pieces of the call that a body is."""
        return self._call.push(body) if self._call is not None else []

    def _called(self, body: str, end: str) -> list[AnswerPart]:
        # a call without arguments has to have been ended
        is_cut = self._is_cut and not (end or body.strip())
        read = () if is_cut else HarmonyCalls().calls(self._header + body, self._tools)
        calls: list[AnswerPart] = [
            ToolCall("", encodable(name), encodable(arguments)) for name, arguments in read
        ]
        written = self._header + body + (end if end == CALL else "")
        outcome = CallOutcome.READ if calls else CallOutcome.TEXT
        if self._call is not None and self._call.is_announced:
            calls = self._call.ended(
                [call for call in calls if isinstance(call, ToolCall)], written
            )
            outcome = CallOutcome.CUT if isinstance(calls[0], CutCall) else outcome
        self._tally.note(HarmonyCalls().format, outcome)
        self._last = ToolCall if calls else Text
        return calls or [Text(written)]
