"""A model's chat template, and what it cannot say put in words it can.

Templates differ in where they accept a system message and whether speakers may speak twice in a row. What one accepts is found out once, by
trying, so that the same history always becomes the same text, however long the conversation grows.
"""

from collections.abc import Callable, Sequence
from itertools import groupby

import attrs
from jinja2.exceptions import TemplateError

from semantic_trio.domain.conversation import Conversation, Role
from semantic_trio.domain.errors import InvalidRequestError

# Templates are programs: besides refusing, they fail on what their authors did not think of.
REFUSALS = (TemplateError, TypeError, ValueError, LookupError)

Turn = dict[str, str]  # a message as templates know it: role and content
# Renders turns up to where the assistant is to speak. Raises one of `REFUSALS` for what the template does not take.
Render = Callable[[Sequence[Turn]], str]

# The wrapping in which coding agents send system messages to models that know none beyond the first, so models have seen it.
REMINDER = "<system-reminder>\n{}\n</system-reminder>"


@attrs.frozen
class ChatTemplate:
    """Renders conversations for one model."""

    render: Render
    takes_system: bool  # as the first message
    takes_late_system: bool  # in place, anywhere
    takes_neighbours: bool  # two turns of one speaker in a row

    def prompt(self, conversation: Conversation) -> str:
        """The text of a conversation up to where the assistant is to speak. Raises `InvalidRequestError` where the template refuses."""
        try:
            return self.render(self._adapted([_turn(message.role, message.text) for message in conversation.messages]))
        except REFUSALS as error:
            raise InvalidRequestError(f"the model's chat template refuses this conversation: {error}", field="messages") from error

    def _adapted(self, turns: list[Turn]) -> list[Turn]:
        if not self.takes_late_system:
            turns = _late_systems_reminded(turns)
        if not self.takes_system:
            turns = _system_in_first_user(turns)
        return turns if self.takes_neighbours else _neighbours_merged(turns)


def probe(render: Render) -> ChatTemplate:
    """The template, after trying what it accepts. A message counts as accepted when it appears, and where it belongs."""
    say = _Saying(render)
    neighbours = say.all_of(Role.USER, Role.USER)
    system = say.all_of(Role.SYSTEM, Role.USER)
    opening = (Role.SYSTEM, Role.USER) if system else (Role.USER,)
    late = (
        say.all_of(*opening, Role.SYSTEM)
        and say.all_of(*opening, Role.SYSTEM, Role.ASSISTANT, Role.USER, Role.SYSTEM)
        and say.all_of(Role.USER, Role.SYSTEM, Role.ASSISTANT, Role.USER)
        and say.all_of(Role.SYSTEM, Role.SYSTEM, Role.USER)
    )
    return ChatTemplate(render, takes_system=system, takes_late_system=late, takes_neighbours=neighbours)


@attrs.frozen
class _Saying:
    """Tries a template with turns that can be told apart."""

    render: Render

    def all_of(self, *roles: Role) -> bool:
        """Whether turns of these speakers all appear, in their order."""
        words = [f"probe-{number}-{role.value}" for number, role in enumerate(roles)]
        try:
            text = self.render([_turn(role, word) for role, word in zip(roles, words, strict=True)])
        except REFUSALS:
            return False
        places = [text.find(word) for word in words]
        return places == sorted(places) and places[0] >= 0


def _late_systems_reminded(turns: list[Turn]) -> list[Turn]:
    """Leading system messages become one; later ones a reminder on the user's side, where they stand."""
    speaks = next((at for at, turn in enumerate(turns) if turn["role"] != Role.SYSTEM), len(turns))
    late = [_turn(Role.USER, REMINDER.format(turn["content"])) if turn["role"] == Role.SYSTEM else turn for turn in turns[speaks:]]
    return _neighbours_merged(turns[:speaks]) + late


def _system_in_first_user(turns: list[Turn]) -> list[Turn]:
    """The leading system message becomes the first paragraph of what the user says first."""
    if not turns or turns[0]["role"] != Role.SYSTEM:
        return turns
    opening = [_turn(Role.USER, turns[0]["content"])]
    if len(turns) > 1 and turns[1]["role"] == Role.USER:
        return _neighbours_merged([*opening, turns[1]]) + turns[2:]
    return opening + turns[1:]


def _neighbours_merged(turns: list[Turn]) -> list[Turn]:
    """Turns in a row of one speaker become one, a blank line between what they say."""
    speakers = groupby(turns, key=lambda turn: turn["role"])
    return [_turn(Role(role), "\n\n".join(turn["content"] for turn in said)) for role, said in speakers]


def _turn(role: Role, content: str) -> Turn:
    return {"role": role.value, "content": content}
