"""One answer taken apart while it comes: text, thoughts and calls.

Knows the marks of one model. Knows nothing of tokens. What is read does not depend on the pieces it comes in.
"""

import enum
import json
from collections.abc import Sequence

import attrs

from semantic_trio.adapters.text.layout import encodable
from semantic_trio.adapters.text.syntax import ThinkMarks, ToolSyntax
from semantic_trio.domain.conversation import Part, Text, Thinking, Tool, ToolCall
from semantic_trio.domain.stopping import Thoughts, begun


class _State(enum.Enum):
    TEXT = enum.auto()
    GAP = enum.auto()  # blanks after a thought or a call: no text
    THOUGHT = enum.auto()
    CALL = enum.auto()


@attrs.define(eq=False)
class MarkReader:
    """An `AnswerReader` over marks in the text."""

    _think: ThinkMarks
    _syntax: ToolSyntax | None  # None: calls are text
    _tools: Sequence[Tool] = ()
    _held: str = ""  # told by nobody yet; at first the beginning of the answer that is in the prompt
    _is_form: bool = False  # the answer is of a form: marks count before anything is said, and within it they are part of it
    thoughts: Thoughts = attrs.field(init=False)
    _state: _State = attrs.field(init=False, default=_State.TEXT)
    _behind: type[Part] = attrs.field(init=False, default=Thinking)  # what the gap is behind
    _searched: int = attrs.field(init=False, default=0)  # of a call: no end begins before
    _has_said: bool = attrs.field(init=False, default=False)
    _has_thought: bool = attrs.field(init=False, default=False)  # of a thought: its first words were told

    def __attrs_post_init__(self) -> None:
        self.thoughts = Thoughts(self._think.start, self._think.end, self._held.rfind(self._think.start) > self._held.rfind(self._think.end))

    @property
    def apart(self) -> type[Part] | None:
        """See `AnswerReader.apart`."""
        return {_State.THOUGHT: Thinking, _State.GAP: self._behind}.get(self._state)

    def push(self, text: str) -> list[Part]:
        """See `AnswerReader.push`."""
        self._held += text
        return self._read(is_all=False)

    def finish(self) -> list[Part]:
        """See `AnswerReader.finish`."""
        return self._read(is_all=True)

    def _read(self, is_all: bool) -> list[Part]:
        """What is certain, state after state until one stays."""
        parts: list[Part] = []
        before = None
        while before is not self._state and (self._held or self._state is _State.CALL):
            before = self._state
            parts += self._step(is_all)
        return parts

    def _step(self, is_all: bool) -> list[Part]:
        match self._state:
            case _State.TEXT:
                return self._text(is_all)
            case _State.GAP:
                return self._gap()
            case _State.THOUGHT:
                return self._thought(is_all)
            case _State.CALL:
                return self._call(is_all)

    def _text(self, is_all: bool) -> list[Part]:
        starts = {self._think.start: _State.THOUGHT} | ({self._syntax.start: _State.CALL} if self._syntax else {})
        found = [(at, -len(start), start) for start in starts if (at := self._held.find(start)) >= 0]
        if self._is_form and (self._has_said or (found and self._held[: min(found)[0]].strip())):
            found, starts = [], {}
        if found:
            at, _, start = min(found)
            text, self._held = self._held[:at], self._held[at + len(start) :]
            self._state, self._searched, self._has_thought = starts[start], 0, False
        else:
            keep = 0 if is_all else max((begun(self._held, start) for start in starts), default=0)
            text, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        self._has_said = self._has_said or bool(text.strip())
        return [Text(text)] if text else []

    def _gap(self) -> list[Part]:
        self._held = self._held.lstrip()
        if self._held:
            self._state = _State.TEXT
        return []

    def _thought(self, is_all: bool) -> list[Part]:
        thought, mark, after = self._held.partition(self._think.end)
        if mark:
            self._state, self._behind, self._held = _State.GAP, Thinking, after
        elif is_all:
            self._held = ""
        else:
            thought = thought[: len(thought) - begun(thought, self._think.end)]
            self._held = self._held[len(thought.rstrip()) :]
        thought = thought.rstrip() if self._has_thought else thought.strip()
        self._has_thought = self._has_thought or bool(thought)
        return [Thinking(thought)] if thought else []

    def _call(self, is_all: bool) -> list[Part]:
        assert self._syntax is not None
        end = self._syntax.end
        while end and (at := self._held.find(end, self._searched)) >= 0:
            calls, is_open = self._parsed(self._held[:at])
            if not is_open:
                written = self._syntax.start + self._held[: at + len(end)]
                self._held = self._held[at + len(end) :]
                return self._called(calls, written)
            self._searched = at + len(end)
        self._searched = max(self._searched, len(self._held) - len(end) + 1)
        if not is_all:
            return []
        written, held, self._held = self._syntax.start + self._held, self._held, ""
        return self._called(self._parsed(held)[0], written)

    def _called(self, calls: list[Part], written: str) -> list[Part]:
        self._state, self._behind = _State.GAP if calls else _State.TEXT, ToolCall
        return calls or [Text(written)]

    def _parsed(self, body: str) -> tuple[list[Part], bool]:
        """The calls of a text, none where it is no call; and whether it ends within a string: then its end is still to come."""
        assert self._syntax is not None
        try:
            calls = self._syntax.parse(body, self._tools)
            return [ToolCall("", encodable(name), encodable(arguments)) for name, arguments in calls], False
        except json.JSONDecodeError as error:
            return [], error.msg.startswith("Unterminated string")
        except Exception:  # noqa: BLE001 - parsers of many hands; whatever they raise, it is no call
            return [], False
