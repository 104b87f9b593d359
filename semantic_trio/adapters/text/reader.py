"""Incremental parser of one answer: text, thoughts and calls.

Knows the delimiters of one model. Knows nothing of tokens. The result does not depend on how the
text is split into chunks.
"""

import enum
import re
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.layout import encodable
from semantic_trio.adapters.text.syntax import Begun, CallsRead, Ending, ToolSyntax
from semantic_trio.adapters.text.tally import CallOutcome, CallTally
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.conversation import (
    AnswerPart,
    CutCall,
    Part,
    Text,
    Thinking,
    Tool,
    ToolCall,
)
from semantic_trio.domain.open_call import OpenCall, OpenCalls
from semantic_trio.domain.stopping import Thoughts, begun

# Characters of a possible call that are parsed again with every chunk: most texts that are no calls
# show it by then.
EARLY = 200


class _State(enum.Enum):
    TEXT = enum.auto()
    GAP = enum.auto()  # blanks after a thought or a call: no text
    THOUGHT = enum.auto()
    CALL = enum.auto()


@attrs.define(eq=False)
class DelimiterReader:
    """An `AnswerReader` that finds thoughts and calls by the delimiters around them."""

    _think: ThoughtDelimiters
    _syntaxes: Sequence[ToolSyntax]  # the formats in which this model calls; none: calls are text
    _tools: Sequence[Tool] = ()
    # text not yet returned; at first the beginning of the answer that the prompt ends with
    _held: str = ""
    # the answer is held to a response format: delimiters count only before its first text
    _is_form: bool = False
    _tally: CallTally = attrs.field(factory=CallTally)
    thoughts: Thoughts = attrs.field(init=False)
    _state: _State = attrs.field(init=False, default=_State.TEXT)
    # type of the part before the gap
    _behind: type[Part] = attrs.field(init=False, default=Thinking)
    # of a call: characters that were parsed already
    _searched: int = attrs.field(init=False, default=0)
    # the calls that are being written, once their arguments have begun
    _open: OpenCalls = attrs.field(init=False, factory=OpenCalls)
    # the answer ended before the model ended its turn
    _is_cut: bool = attrs.field(init=False, default=False)
    _has_said: bool = attrs.field(init=False, default=False)
    # of a thought: its first words were returned
    _has_thought: bool = attrs.field(init=False, default=False)
    # type of the last returned part
    _last: type[AnswerPart] | None = attrs.field(init=False, default=None)
    # text is between the delimiters of an answer
    _is_wrapped: bool = attrs.field(init=False, default=False)
    _openings: tuple[str, ...] = attrs.field(init=False)
    # of the delimiters that may come within a text or a thought
    _first_characters: frozenset[str] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._openings = tuple(opening for syntax in self._syntaxes for opening in syntax.openings)
        self._first_characters = frozenset(
            start[0] for start in (*self._openings, self._think.start, self._think.end)
        )
        self.thoughts = Thoughts(
            self._think.start,
            self._think.end,
            self._held.rfind(self._think.start) > self._held.rfind(self._think.end),
        )

    @property
    def is_over(self) -> bool:
        """See `AnswerReader.is_over`."""
        return False

    @property
    def apart(self) -> type[Part] | None:
        """See `AnswerReader.apart`."""
        return {_State.THOUGHT: Thinking, _State.GAP: self._behind}.get(self._state)

    def push(self, text: str) -> list[AnswerPart]:
        """See `AnswerReader.push`."""
        # nearly every token: no delimiter can be in it
        if text and not self._held and self._first_characters.isdisjoint(text):
            if self._state is _State.TEXT and self._has_said and not self._is_wrapped:
                self._last = Text
                return [Text(text)]
            if self._state is _State.THOUGHT and self._has_thought and not text[-1].isspace():
                self._last = Thinking
                return [Thinking(text)]
        self._held += text
        return self._read(is_all=False)

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """See `AnswerReader.finish`."""
        self._is_cut = is_cut
        return self._read(is_all=True)

    def _read(self, is_all: bool) -> list[AnswerPart]:
        """Return all certain parts, state after state until one stays."""
        parts: list[AnswerPart] = []
        before = None
        while before is not self._state and (self._held or self._state is _State.CALL):
            before = self._state
            for part in self._step(is_all):
                parts.append(part)
                self._last = type(part)
        return parts

    def _step(self, is_all: bool) -> list[AnswerPart]:
        match self._state:
            case _State.TEXT:
                return self._text(is_all)
            case _State.GAP:
                return self._gap()
            case _State.THOUGHT:
                return self._thought(is_all)
            case _State.CALL:
                return self._call(is_all)

    @property
    def _fronts(self) -> tuple[str, ...]:
        return (
            ()
            if self._has_said
            else tuple(front for syntax in self._syntaxes for front in syntax.fronts)
        )

    def _text(self, is_all: bool) -> list[AnswerPart]:
        fronts, answer = self._fronts, self._answer_delimiter()
        starts = {
            **dict.fromkeys((*self._openings, *fronts), _State.CALL),
            self._think.start: _State.THOUGHT,
        }
        starts |= {answer: _State.GAP} if answer else {}
        found = [
            (at, -len(start), start) for start in starts if (at := self._held.find(start)) >= 0
        ]
        first_only = fronts if self._is_wrapped or answer is None else (*fronts, answer)
        found = [
            one for one in found if one[2] not in first_only or not self._held[: one[0]].strip()
        ]
        if self._is_form and (self._has_said or (found and self._held[: min(found)[0]].strip())):
            found, starts = [], {}
        if found:
            at, _, start = min(found)
            text, self._held = (
                self._held[:at],
                self._held[at + (0 if starts[start] is _State.CALL else len(start)) :],
            )
            self._state, self._searched, self._has_thought = starts[start], 0, False
            if start == answer:
                text, self._is_wrapped = text.rstrip(), not self._is_wrapped
        else:
            keep = 0 if is_all else max((begun(self._held, start) for start in starts), default=0)
            if answer and not is_all:  # blanks before a delimiter of an answer are no text
                keep = len(self._held) - len(self._held[: len(self._held) - keep].rstrip())
            text, self._held = (
                self._held[: len(self._held) - keep],
                self._held[len(self._held) - keep :],
            )
        self._has_said = self._has_said or bool(text.strip())
        return [Text(text)] if text else []

    def _answer_delimiter(self) -> str | None:
        """Return the delimiter of an answer that may come next: its start before any text, then its
        end; else None.
        """
        if self._think.answer is None or (self._has_said and not self._is_wrapped):
            return None
        return self._think.answer[self._is_wrapped]

    def _gap(self) -> list[AnswerPart]:
        self._held = self._held.lstrip()
        if self._held:
            self._state = _State.TEXT
        return []

    def _thought(self, is_all: bool) -> list[AnswerPart]:
        thought, delimiter, after = self._held.partition(self._think.end)
        calls: list[ToolCall] = []
        if delimiter:
            self._state, self._behind, self._held = _State.GAP, Thinking, after
        elif is_all:
            at, calls = self._calls_at_end()
            thought, self._held = self._held[:at], ""
        else:
            thought = thought[: self._undecided(thought)]
            self._held = self._held[len(thought.rstrip()) :]
        thought = thought.rstrip() if self._has_thought else thought.strip()
        if thought and not self._has_thought and self._last is Thinking:
            thought = f"\n\n{thought}"  # a thought of its own, right behind another one
        self._has_thought = self._has_thought or bool(thought)
        return [*([Thinking(thought)] if thought else []), *calls]

    def _calls_at_end(self) -> tuple[int, list[ToolCall]]:
        """Return the calls at the end of an unclosed thought, and their start.

        A call with more thought after it is a mention.
        """
        for start in self._places_in(self._held):
            at, parts = start, list[ToolCall]()
            while (
                at < len(self._held)
                and (found := self._reading(self._held[at:], self._ending)) is not None
                and found[1].calls
            ):
                parts += self._called(*found)
                at += found[1].used
                at = len(self._held) - len(self._held[at:].lstrip())
            if at == len(self._held):
                return start, parts
        return len(self._held), []

    def _undecided(self, thought: str) -> int:
        """Return the position in a thought from which on the text may be its end, or a call at the
        end of the answer.
        """
        for at in self._places_in(thought):
            found = self._reading(thought[at:], Ending.OPEN)
            if found is None or (found[1].calls and not thought[at + found[1].used :].strip()):
                return at
        return len(thought) - max(
            begun(thought, start) for start in (self._think.end, *self._openings)
        )

    def _places_in(self, text: str) -> list[int]:
        """Positions in a text at which calls may begin."""
        openings = "|".join(map(re.escape, self._openings))
        return [match.start() for match in re.finditer(openings, text)] if openings else []

    def _call(self, is_all: bool) -> list[AnswerPart]:
        """Return the calls at the beginning of the held text, once they are certain; before that,
        pieces of the first one.
        """
        pieces = self._pieces()
        if not (is_all or self._may_be_certain()):
            return pieces
        found = self._reading(self._held, self._ending if is_all else Ending.OPEN)
        self._searched = len(self._held)
        if found is None:
            return pieces
        form, reading = found
        # a call that was announced and could not be parsed is cut
        used = reading.used if reading.used > self._open.start else len(self._held)
        written, self._held = self._held[:used], self._held[used:]
        self._state, self._behind = _State.GAP if reading.calls else _State.TEXT, ToolCall
        self._has_said = self._has_said or not reading.calls
        return [*pieces, *self._ended(form, reading, written)]

    def _pieces(self) -> list[AnswerPart]:
        """Return new pieces of the calls at the beginning of the held text, of each once its
        arguments have begun.
        """
        pieces = self._open.push(self._held)
        while (end := self._open.end) is not None and (found := self._begun(end)) is not None:
            self._open.begin(OpenCall(found.name, found.at, found.writer, end))
            pieces += self._open.push(self._held)
        return pieces

    def _begun(self, behind: int) -> Begun | None:
        """Return the call that begins after a position in the held text; None if there is none."""
        begun = (
            syntax.begun(self._held, self._tools, behind)
            for syntax in self._syntaxes
            if self._held.startswith((*syntax.openings, *syntax.fronts))
        )
        return next((one for one in begun if one is not None), None)

    def _ended(self, form: str, reading: CallsRead, written: str) -> list[AnswerPart]:
        """Return the parts of one or several ended calls. An announced call cannot become text."""
        announced, self._open = self._open, OpenCalls()
        if not announced.is_announced:
            return [*self._called(form, reading)] or [Text(written)]
        parts = announced.ended(_calls(reading), written)
        if isinstance(parts[0], CutCall):
            self._tally.note(form, CallOutcome.CUT)
        else:
            self._called(form, reading)
        return parts

    @property
    def _ending(self) -> Ending:
        return Ending.CUT if self._is_cut else Ending.TURN

    def _may_be_certain(self) -> bool:
        """True if a new end delimiter has come, or while the text may still turn out to be no
        call.
        """
        ends = (syntax.end for syntax in self._syntaxes if syntax.end)
        return self._searched < EARLY or any(
            self._held.find(end, max(0, self._searched - len(end) + 1)) >= 0 for end in ends
        )

    def _reading(self, text: str, ending: Ending) -> tuple[str, CallsRead] | None:
        """Return the calls of the first format that finds any, with its name; None while a format
        may still find one.
        """
        form, refused = "", CallsRead((), 1)
        for syntax in self._syntaxes:
            if not text.startswith((*syntax.openings, *syntax.fronts)):
                continue
            reading = syntax.read(text, self._tools, ending)
            if reading is None:
                return None
            if reading.calls:
                return syntax.format, reading
            form, refused = max(
                (form, refused), (syntax.format, reading), key=lambda one: one[1].used
            )
        return form, refused

    def _called(self, form: str, reading: CallsRead) -> list[ToolCall]:
        """Return the calls of a reading, and count their outcome."""
        if reading.calls:
            self._tally.note(
                form, CallOutcome.REPAIRED if reading.repair else CallOutcome.READ, reading.repair
            )
        elif reading.used > max(map(len, (*self._openings, ""))):
            self._tally.note(form, CallOutcome.TEXT)
        return _calls(reading)


def _calls(reading: CallsRead) -> list[ToolCall]:
    return [
        ToolCall("", encodable(name), encodable(arguments)) for name, arguments in reading.calls
    ]
