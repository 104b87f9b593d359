"""Turns that a template can render, built from messages, with placeholders for their texts.

Knows how this template takes calls, results and thoughts. Knows nothing of the order of turns.
"""

import json
from collections.abc import Iterator

import attrs

from semantic_trio.adapters.text import generic
from semantic_trio.adapters.text.capabilities import TemplateCapabilities
from semantic_trio.adapters.text.guard import NO_GUARD, OTHER, Guard
from semantic_trio.adapters.text.layout import NOBODY, SlotKind, Slots
from semantic_trio.adapters.text.switch import WORDS
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import RESULT_ROLE, Turn, turn
from semantic_trio.domain.conversation import Conversation, Message, Role, Tool, ToolCall

NEWLINE = "\n"

# The wrapping in which coding agents send system messages to models that know none beyond the
# first, so models have seen it.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"


@attrs.frozen
class TurnBuilder:
    """Builder of turns that a template can render, with placeholders for their texts."""

    _capabilities: TemplateCapabilities
    _delimiters: ThoughtDelimiters
    # number of the message whose last call gets arguments that show where the call ends
    _shown: int
    _guard: Guard = NO_GUARD
    slots: Slots = attrs.field(init=False, factory=Slots)

    def turns(self, conversation: Conversation) -> list[Turn]:
        """Return all turns of a conversation."""
        turns: list[Turn] = []
        calls = self._capabilities.calls
        if conversation.tools and not calls.renders_tools:
            wording = generic.wording(calls.generic_sample) if calls.is_native else generic.TOOLS
            turns.append(
                turn(
                    Role.SYSTEM,
                    self._framed(NOBODY, wording, generic.tool_lines(conversation.tools)),
                )
            )
        leading = conversation.leading
        # numbers and names of calls as the template shows them, by the clients' ids
        called: dict[str, tuple[str, str]] = {}
        for owner, message in enumerate(conversation.messages):
            if message.role is Role.ASSISTANT:
                turns.append(self._assistant(owner, message, called))
            elif message.role is Role.USER:
                turns += self._user(owner, message, called)
            else:
                turns.append(self._system(owner, message, is_late=owner >= leading))
        return turns

    def _system(self, owner: int, message: Message, *, is_late: bool) -> Turn:
        """Return a system turn; a user's turn with a reminder where the template takes no late
        system messages.
        """
        words = self._words(owner, Role.SYSTEM, message.text)
        return (
            turn(Role.USER, REMINDER.format(words))
            if is_late and not self._capabilities.takes_late_system
            else turn(Role.SYSTEM, words)
        )

    def _words(self, owner: int, role: str, text: str) -> str:
        return self.slots.hold(text.strip() if role in self._capabilities.trims else text, owner)

    def _user(
        self, owner: int, message: Message, called: dict[str, tuple[str, str]]
    ) -> Iterator[Turn]:
        if message.results and not self._capabilities.calls.is_native:
            results = (
                self._framed(owner, generic.RESULT, generic.result_text(result))
                for result in message.results
            )
            yield turn(Role.USER, self._lines(owner, results))
        elif message.results:
            for result in message.results:
                number, name = called.get(
                    result.call_id,
                    (
                        self._capabilities.calls.numbering.format(number=0, name="unknown"),
                        "unknown",
                    ),
                )
                words = self._words(owner, RESULT_ROLE, generic.result_text(result))
                yield {
                    **turn(RESULT_ROLE, words),
                    "tool_call_id": number,
                    "name": self._unspelled(name),
                }
        if message.text or not message.results:
            yield turn(
                Role.USER,
                self._heard(owner, message.text)
                if self._capabilities.switch.takes_user_words
                else self._words(owner, Role.USER, message.text),
            )

    def _heard(self, owner: int, text: str) -> str:
        """Return a user's text, with the words visible that the template looks for."""
        text = text.strip() if Role.USER in self._capabilities.trims else text
        pieces = WORDS.split(text)
        # The last piece is held even where it is empty: it shows where the message ends.
        held = [
            piece
            if at % 2 or not (piece or at == len(pieces) - 1)
            else self.slots.hold(piece, owner)
            for at, piece in enumerate(pieces)
        ]
        return "".join(held)

    def _assistant(self, owner: int, message: Message, called: dict[str, tuple[str, str]]) -> Turn:
        call_format, text = self._capabilities.calls, message.text
        is_glued = bool(message.calls) and call_format.is_native and not text.strip()
        thoughts = self._thoughts(owner, message, call_format.glue if is_glued else "")
        if not message.calls:
            return turn(Role.ASSISTANT, thoughts + self.slots.hold(text, owner))
        text = text.rstrip()
        if not call_format.is_native:
            said = self.slots.hold(text, owner) + self._frame("\n", owner) if text else ""
            parts = (self._generic_call(owner, call) for call in message.calls)
            return turn(Role.ASSISTANT, thoughts + said + self._lines(owner, parts))
        content = thoughts + (self.slots.hold(text, owner) if text else "")
        calls = [
            self._call(owner, call, called, owner == self._shown and call is message.calls[-1])
            for call in message.calls
        ]
        return {**turn(Role.ASSISTANT, content), "tool_calls": calls}

    def definition(self, tool: Tool) -> generic.Definition:
        """Return a tool as templates take it, with no delimiter in it."""
        definition = self._unspelled(generic.definition(tool))
        assert isinstance(definition, dict)
        return definition

    def _thoughts(self, owner: int, message: Message, glue: str = "") -> str:
        """Return the thoughts of a message between their delimiters.

        `glue`: the template's text between an answer and a call.
        """
        thought, delimiters = message.thinking.strip(), self._delimiters
        if not thought:
            return ""
        end = f"{delimiters.pad}{delimiters.end}{delimiters.gap}".removesuffix(glue)
        return (
            self._frame(delimiters.opening, owner)
            + self.slots.hold(thought, owner)
            + self._frame(end, owner)
        )

    def _generic_call(self, owner: int, call: ToolCall) -> str:
        """Return a call in the wording for templates that know none."""
        name, arguments = (
            self.slots.hold(json.dumps(call.name, ensure_ascii=False), owner),
            self.slots.hold(call.arguments or "{}", owner),
        )
        before, between, after = generic.CALL.format(OTHER, OTHER).split(OTHER)
        return (
            self._frame(before, owner)
            + name
            + self._frame(between, owner)
            + arguments
            + self._frame(after, owner)
        )

    def _framed(self, owner: int, wording: str, content: str) -> str:
        """Return a content in a wording that has one place for it."""
        before, after = wording.format(OTHER).split(OTHER)
        return (
            self._frame(before, owner) + self.slots.hold(content, owner) + self._frame(after, owner)
        )

    def _lines(self, owner: int, parts: Iterator[str]) -> str:
        """Return the parts of a turn, each on a line of its own."""
        first, *others = parts
        return "".join((first, *(f"{self._frame(NEWLINE, owner)}{other}" for other in others)))

    def _frame(self, text: str, owner: int) -> str:
        """Return a placeholder for words of the format, which the template does not see."""
        return self.slots.hold(text, owner, SlotKind.FRAME) if text else ""

    def _unspelled(self, value: object) -> object:
        """Return a value that the template sees, with a place for a cut within each delimiter that
        its texts spell.
        """
        match value:
            case str():
                return (
                    self._guard.broken(value, self.slots.hold("", NOBODY, SlotKind.SPLIT))
                    if self._guard.spells(value)
                    else value
                )
            case dict():
                return {self._unspelled(key): self._unspelled(one) for key, one in value.items()}
            case list():
                return [self._unspelled(one) for one in value]
        return value

    def _call(
        self, owner: int, call: ToolCall, called: dict[str, tuple[str, str]], shows_end: bool
    ) -> dict[str, object]:
        call_format, number = self._capabilities.calls, len(called)
        name = self.slots.hold(call.name, owner, SlotKind.NAME)
        call_id = call_format.numbering.format(
            number=number, name=self.slots.hold(call.name, owner, SlotKind.NAME)
        )
        called[call.id or str(number)] = (
            call_format.numbering.format(number=number, name=call.name),
            call.name,
        )
        arguments: object
        if call_format.takes_text:
            arguments = self.slots.hold(call.arguments or "{}", owner, SlotKind.ARGUMENTS)
        elif shows_end:
            arguments = {"key": self.slots.hold("", owner, SlotKind.ARGUMENTS)}
        else:
            arguments = self._unspelled(generic.as_object(call.arguments))
        return {
            "id": call_id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        }
