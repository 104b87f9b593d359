"""Turns a template can render made of messages, their words held back.

Knows what this template takes for calls, results and thoughts. Knows nothing of who may speak when.
"""

from collections.abc import Iterator

import attrs

from semantic_trio.adapters.text import generic
from semantic_trio.adapters.text.layout import Kind, Slots
from semantic_trio.adapters.text.manners import Manners
from semantic_trio.adapters.text.thinking import ThinkMarks
from semantic_trio.adapters.text.turns import RESULT_ROLE, Turn, turn
from semantic_trio.domain.conversation import Conversation, Message, Role, ToolCall

# The wrapping in which coding agents send system messages to models that know none beyond the first, so models have seen it.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"


@attrs.frozen
class Telling:
    """Turns a template can render, their words held back."""

    _manners: Manners
    _marks: ThinkMarks
    _marked: int  # the message whose last call is told with arguments that show where it ends
    slots: Slots = attrs.field(init=False, factory=Slots)

    def turns(self, conversation: Conversation) -> list[Turn]:
        """All of a conversation."""
        turns: list[Turn] = []
        if conversation.tools and not self._manners.calls.is_native:
            turns.append(turn(Role.SYSTEM, self.slots.hold(generic.told_tools(conversation.tools))))
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
            yield turn(Role.USER, self._words(owner, Role.USER, generic.told_results(message.results)))
        elif message.results:
            for result in message.results:
                number, name = called.get(result.call_id, (self._manners.calls.numbering.format(number=0, name="unknown"), "unknown"))
                words = self._words(owner, RESULT_ROLE, generic.told_result(result))
                yield {**turn(RESULT_ROLE, words), "tool_call_id": number, "name": name}
        if message.text or not message.results:
            yield turn(Role.USER, self._words(owner, Role.USER, message.text))

    def _assistant(self, owner: int, message: Message, called: dict[str, tuple[str, str]]) -> Turn:
        manner, thoughts, text = self._manners.calls, self._marks.around(message.thinking.strip()), message.text
        if not message.calls:
            return turn(Role.ASSISTANT, self.slots.hold(thoughts + text, owner))
        text = text.rstrip()
        if not manner.is_native:
            said = f"{text}\n" if text else ""
            return turn(Role.ASSISTANT, self.slots.hold(thoughts + said + generic.told_calls(message.calls), owner))
        said = thoughts + text if text else thoughts.removesuffix(manner.glue)
        content = self.slots.hold(said, owner) if said else ""
        calls = [self._call(owner, call, called, owner == self._marked and call is message.calls[-1]) for call in message.calls]
        return {**turn(Role.ASSISTANT, content), "tool_calls": calls}

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
            arguments = generic.as_object(call.arguments)
        return {"id": told, "type": "function", "function": {"name": name, "arguments": arguments}}
