"""Turns a template can render made of messages, their words held back.

Knows what this template takes for calls, results and thoughts. Knows nothing of who may speak when.
"""

import json
from collections.abc import Iterator

import attrs

from semantic_trio.adapters.text import generic
from semantic_trio.adapters.text.guard import NO_GUARD, OTHER, Guard
from semantic_trio.adapters.text.layout import NOBODY, Kind, Slots
from semantic_trio.adapters.text.manners import Manners
from semantic_trio.adapters.text.switch import WORDS
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import RESULT_ROLE, Turn, turn
from semantic_trio.domain.conversation import Conversation, Message, Role, Tool, ToolCall

NEWLINE = "\n"

# The wrapping in which coding agents send system messages to models that know none beyond the first, so models have seen it.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"


@attrs.frozen
class Telling:
    """Turns a template can render, their words held back."""

    _manners: Manners
    _delimiters: ThoughtDelimiters
    _marked: int  # the message whose last call is told with arguments that show where it ends
    _guard: Guard = NO_GUARD
    slots: Slots = attrs.field(init=False, factory=Slots)

    def turns(self, conversation: Conversation) -> list[Turn]:
        """All of a conversation."""
        turns: list[Turn] = []
        calls = self._manners.calls
        if conversation.tools and not calls.tells_tools:
            wording = generic.wording(calls.told_sample) if calls.is_native else generic.TOOLS
            turns.append(turn(Role.SYSTEM, self._framed(NOBODY, wording, generic.tool_lines(conversation.tools))))
        leading = conversation.leading
        called: dict[str, tuple[str, str]] = {}  # the numbers and names templates are told of calls, by the ids of clients
        for owner, message in enumerate(conversation.messages):
            if message.role is Role.ASSISTANT:
                turns.append(self._assistant(owner, message, called))
            elif message.role is Role.USER:
                turns += self._user(owner, message, called)
            else:
                turns.append(self._system(owner, message, is_late=owner >= leading))
        return turns

    def _system(self, owner: int, message: Message, *, is_late: bool) -> Turn:
        """A turn of the system; a reminder on the user's side where the template takes no late system messages."""
        words = self._words(owner, Role.SYSTEM, message.text)
        return turn(Role.USER, REMINDER.format(words)) if is_late and not self._manners.takes_late_system else turn(Role.SYSTEM, words)

    def _words(self, owner: int, role: str, text: str) -> str:
        return self.slots.hold(text.strip() if role in self._manners.trims else text, owner)

    def _user(self, owner: int, message: Message, called: dict[str, tuple[str, str]]) -> Iterator[Turn]:
        if message.results and not self._manners.calls.is_native:
            results = (self._framed(owner, generic.RESULT, generic.told_result(result)) for result in message.results)
            yield turn(Role.USER, self._lines(owner, results))
        elif message.results:
            for result in message.results:
                number, name = called.get(result.call_id, (self._manners.calls.numbering.format(number=0, name="unknown"), "unknown"))
                words = self._words(owner, RESULT_ROLE, generic.told_result(result))
                yield {**turn(RESULT_ROLE, words), "tool_call_id": number, "name": self._unspelled(name)}
        if message.text or not message.results:
            yield turn(
                Role.USER, self._heard(owner, message.text) if self._manners.switch.takes_user_words else self._words(owner, Role.USER, message.text)
            )

    def _heard(self, owner: int, text: str) -> str:
        """Return a user's text, with the words visible that the template looks for."""
        text = text.strip() if Role.USER in self._manners.trims else text
        pieces = WORDS.split(text)
        # The last piece is held even where it is empty: it marks where the message ends.
        told = [piece if at % 2 or not (piece or at == len(pieces) - 1) else self.slots.hold(piece, owner) for at, piece in enumerate(pieces)]
        return "".join(told)

    def _assistant(self, owner: int, message: Message, called: dict[str, tuple[str, str]]) -> Turn:
        manner, text = self._manners.calls, message.text
        is_glued = bool(message.calls) and manner.is_native and not text.strip()
        thoughts = self._thoughts(owner, message, manner.glue if is_glued else "")
        if not message.calls:
            return turn(Role.ASSISTANT, thoughts + self.slots.hold(text, owner))
        text = text.rstrip()
        if not manner.is_native:
            said = self.slots.hold(text, owner) + self._frame("\n", owner) if text else ""
            told = (self._told_call(owner, call) for call in message.calls)
            return turn(Role.ASSISTANT, thoughts + said + self._lines(owner, told))
        content = thoughts + (self.slots.hold(text, owner) if text else "")
        calls = [self._call(owner, call, called, owner == self._marked and call is message.calls[-1]) for call in message.calls]
        return {**turn(Role.ASSISTANT, content), "tool_calls": calls}

    def definition(self, tool: Tool) -> generic.Definition:
        """A tool as templates know it, with no delimiter in it."""
        told = self._unspelled(generic.definition(tool))
        assert isinstance(told, dict)
        return told

    def _thoughts(self, owner: int, message: Message, glue: str = "") -> str:
        """The thoughts of a message between their delimiters; `glue`: what the template puts between what is said and a call."""
        thought, delimiters = message.thinking.strip(), self._delimiters
        if not thought:
            return ""
        end = f"{delimiters.pad}{delimiters.end}{delimiters.gap}".removesuffix(glue)
        return self._frame(delimiters.opening, owner) + self.slots.hold(thought, owner) + self._frame(end, owner)

    def _told_call(self, owner: int, call: ToolCall) -> str:
        """A call in the wording for templates that know none."""
        name, arguments = self.slots.hold(json.dumps(call.name, ensure_ascii=False), owner), self.slots.hold(call.arguments or "{}", owner)
        before, between, after = generic.CALL.format(OTHER, OTHER).split(OTHER)
        return self._frame(before, owner) + name + self._frame(between, owner) + arguments + self._frame(after, owner)

    def _framed(self, owner: int, wording: str, content: str) -> str:
        """A content in a wording that has one place for it."""
        before, after = wording.format(OTHER).split(OTHER)
        return self._frame(before, owner) + self.slots.hold(content, owner) + self._frame(after, owner)

    def _lines(self, owner: int, told: Iterator[str]) -> str:
        """Parts of a turn, each on a line of its own."""
        first, *others = told
        return "".join((first, *(f"{self._frame(NEWLINE, owner)}{other}" for other in others)))

    def _frame(self, text: str, owner: int) -> str:
        """Words of the format, kept from the template."""
        return self.slots.hold(text, owner, Kind.FRAME) if text else ""

    def _unspelled(self, told: object) -> object:
        """Return a value that a template is shown as it is, with a place for a cut within each delimiter that it spells."""
        match told:
            case str():
                return self._guard.broken(told, self.slots.hold("", NOBODY, Kind.SPLIT)) if self._guard.spells(told) else told
            case dict():
                return {self._unspelled(key): self._unspelled(value) for key, value in told.items()}
            case list():
                return [self._unspelled(value) for value in told]
        return told

    def _call(self, owner: int, call: ToolCall, called: dict[str, tuple[str, str]], is_marked: bool) -> dict[str, object]:
        manner, number = self._manners.calls, len(called)
        name = self.slots.hold(call.name, owner, Kind.NAME)
        told = manner.numbering.format(number=number, name=self.slots.hold(call.name, owner, Kind.NAME))
        called[call.id or str(number)] = manner.numbering.format(number=number, name=call.name), call.name
        arguments: object
        if manner.takes_text:
            arguments = self.slots.hold(call.arguments or "{}", owner, Kind.ARGUMENTS)
        elif is_marked:
            arguments = {"key": self.slots.hold("", owner, Kind.ARGUMENTS)}
        else:
            arguments = self._unspelled(generic.as_object(call.arguments))
        return {"id": told, "type": "function", "function": {"name": name, "arguments": arguments}}
