"""Chat templates that cannot say everything: what becomes of the rest, and that a conversation's front never changes."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from jinja2.exceptions import TemplateError

from semantic_trio.adapters.text.template import ChatTemplate, Turn, probe
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.errors import InvalidRequestError

# What the templates of well-known families do with roles, and nothing else of them.
TURN = "{{ '[' + message.role + ']' + message.content }}"
ANYWHERE = "{% for message in messages %}" + TURN + "{% endfor %}"
FIRST_ONLY = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}{{ raise('System message must be at the beginning.') }}"
    "{% endif %}" + TURN + "{% endfor %}"
)
SILENTLY_DROPPED = "{% for message in messages %}{% if message.role != 'system' or loop.first %}" + TURN + "{% endif %}{% endfor %}"
HOISTED = (
    "{% for message in messages if message.role == 'system' %}" + TURN + "{% endfor %}"
    "{% for message in messages if message.role != 'system' %}" + TURN + "{% endfor %}"
)
ALTERNATING = (  # as Gemma: no system role of its own, speakers take turns
    "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise('roles must alternate') }}{% endif %}"
    + TURN
    + "{% endfor %}"
)
TEMPLATES = {
    "anywhere": ANYWHERE,
    "first only": FIRST_ONLY,
    "silently dropped": SILENTLY_DROPPED,
    "hoisted": HOISTED,
    "alternating": ALTERNATING,
}

SYSTEM, USER, ASSISTANT = Role.SYSTEM, Role.USER, Role.ASSISTANT


def template(source: str) -> ChatTemplate:
    environment = Environment(autoescape=False)
    environment.globals["raise"] = _refuse
    compiled = environment.from_string(source)

    def render(turns: Sequence[Turn]) -> str:
        return compiled.render(messages=turns)

    return probe(render)


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


def conversation(*said: tuple[Role, str]) -> Conversation:
    return Conversation(tuple(Message(role, (Text(text),)) for role, text in said))


MIDWAY = conversation((SYSTEM, "S"), (USER, "u1"), (SYSTEM, "M"), (ASSISTANT, "a1"), (USER, "u2"), (SYSTEM, "N"))


def test_a_template_that_takes_system_messages_anywhere_gets_them_in_place() -> None:
    assert template(ANYWHERE).prompt(MIDWAY) == "[system]S[user]u1[system]M[assistant]a1[user]u2[system]N"


@pytest.mark.parametrize("name", ["first only", "silently dropped", "hoisted"])
def test_a_template_that_does_not_gets_them_as_reminders_of_the_user(name: str) -> None:
    assert template(TEMPLATES[name]).prompt(MIDWAY) == (
        "[system]S[user]u1[user]<system-reminder>\nM\n</system-reminder>[assistant]a1[user]u2[user]<system-reminder>\nN\n</system-reminder>"
    )


def test_a_template_without_a_system_role_gets_them_within_the_users_turns() -> None:
    assert template(ALTERNATING).prompt(MIDWAY) == (
        "[user]S\n\nu1\n\n<system-reminder>\nM\n</system-reminder>[assistant]a1[user]u2\n\n<system-reminder>\nN\n</system-reminder>"
    )


def test_several_leading_system_messages_become_one_where_only_one_is_taken() -> None:
    assert template(FIRST_ONLY).prompt(conversation((SYSTEM, "S"), (SYSTEM, "T"), (USER, "u"))) == "[system]S\n\nT[user]u"


def test_what_a_template_refuses_is_the_requests_fault_and_says_why() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        template(ALTERNATING).prompt(conversation((ASSISTANT, "a"), (USER, "u")))

    assert caught.value.field == "messages"


@given(name=st.sampled_from(sorted(TEMPLATES)), roles=st.lists(st.sampled_from([SYSTEM, USER]), max_size=8))
def test_nothing_that_is_said_is_lost_and_a_longer_conversation_begins_with_the_shorter_one(name: str, roles: list[Role]) -> None:
    """The shorter one ends where the assistant spoke: that is where its memory ends."""
    said = [(SYSTEM, "S"), (USER, "u"), (ASSISTANT, "a"), *((role, f"<{number}>") for number, role in enumerate(roles)), (ASSISTANT, "end")]

    whole = template(TEMPLATES[name]).prompt(conversation(*said))

    assert whole.startswith(template(TEMPLATES[name]).prompt(conversation(*said[:3])))
    places = [whole.find(f"<{number}>") for number in range(len(roles))]
    assert -1 not in places
    assert places == sorted(places)
