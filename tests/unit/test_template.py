"""Chat templates that cannot say everything: what becomes of the rest, and that a conversation's
front never changes.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.generic import as_object
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import (
    Conversation,
    Role,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.unit.templates import (
    ALTERNATING,
    ANYWHERE,
    ASSISTANT,
    FIRST_ONLY,
    MIDWAY,
    QWEN,
    SYSTEM,
    TEMPLATES,
    TOOL,
    USER,
    conversation,
    template,
)


def test_a_template_is_shown_the_digits_of_a_number_that_no_float_holds() -> None:
    """Templates write objects as JSON: Infinity would be none."""
    assert as_object('{"a": [1e999999, -1e400, 0.5, 7]}') == {"a": ["1e999999", "-1e400", 0.5, 7]}


def test_a_template_that_takes_system_messages_anywhere_gets_them_in_place() -> None:
    assert (
        template(ANYWHERE).prompt(MIDWAY)
        == "[system]S[user]u1[system]M[assistant]a1[user]u2[system]N"
    )


@pytest.mark.parametrize("name", ["first only", "silently dropped", "hoisted"])
def test_a_template_that_does_not_gets_them_as_reminders_of_the_user(name: str) -> None:
    assert template(TEMPLATES[name]).prompt(MIDWAY) == (
        "[system]S[user]u1[user]<system-reminder>\nM\n</system-reminder>[assistant]a1[user]u2[user]<system-reminder>\nN\n</system-reminder>"
    )


def test_a_template_without_a_system_role_gets_them_within_the_users_turns() -> None:
    assert template(ALTERNATING).prompt(MIDWAY) == (
        "[user]S\n\nu1\n\n<system-reminder>\nM\n</system-reminder>[assistant]a1[user]u2\n\n<system-reminder>\nN\n</system-reminder>"
    )


def test_a_late_system_message_before_the_first_user_message_is_no_part_of_the_system_prompt() -> (
    None
):
    said = canonical(MIDWAY)

    assert (
        template(ANYWHERE).prompt(said)
        == "[system]S[system]M[user]u1[assistant]a1[user]u2[system]N"
    )
    for name in ("first only", "silently dropped", "hoisted"):
        assert (
            template(TEMPLATES[name])
            .prompt(said)
            .startswith(
                "[system]S[user]<system-reminder>\nM\n</system-reminder>[user]u1[assistant]a1"
            )
        )
    assert (
        template(ALTERNATING)
        .prompt(said)
        .startswith("[user]S\n\n<system-reminder>\nM\n</system-reminder>\n\nu1[assistant]a1")
    )


def test_tools_stay_in_front_of_a_late_system_message_where_the_template_tells_them_behind_the_system_prompt() -> (
    None
):
    one, other = (
        canonical(conversation((SYSTEM, "S"), (USER, "u"), (SYSTEM, late)))
        for late in ("today", "tomorrow")
    )
    text, changed = (
        template(QWEN).prompt(Conversation(said.messages, (TOOL,))) for said in (one, other)
    )

    assert template(QWEN).capabilities.calls.is_native
    assert (
        text.index("S\n\n<tools>")
        < text.index('"look"')
        < text.index("today")
        < text.index("u<|im_end|>")
    )
    assert changed == text.replace("today", "tomorrow")


def test_several_leading_system_messages_become_one_where_only_one_is_taken() -> None:
    assert (
        template(FIRST_ONLY).prompt(conversation((SYSTEM, "S"), (SYSTEM, "T"), (USER, "u")))
        == "[system]S\n\nT[user]u"
    )


def test_what_a_template_refuses_is_the_requests_fault_and_says_why() -> None:
    with pytest.raises(InvalidRequestError, match="roles must alternate") as caught:
        template(ALTERNATING).prompt(conversation((ASSISTANT, "a"), (USER, "u")))

    assert caught.value.field == "messages"


@given(
    name=st.sampled_from(sorted(TEMPLATES)),
    roles=st.lists(st.sampled_from([SYSTEM, USER]), max_size=8),
)
def test_nothing_that_is_said_is_lost_and_a_longer_conversation_begins_with_the_shorter_one(
    name: str, roles: list[Role]
) -> None:
    """The shorter one ends where the assistant spoke: that is where its memory ends."""
    begin = [(SYSTEM, "S"), (USER, "u"), (SYSTEM, "L"), (ASSISTANT, "a")]
    said = [
        *begin,
        *((role, f"<{number}>") for number, role in enumerate(roles)),
        (ASSISTANT, "end"),
    ]

    whole = template(TEMPLATES[name]).prompt(canonical(conversation(*said)))

    assert whole.startswith(template(TEMPLATES[name]).prompt(canonical(conversation(*begin))))
    places = [whole.find(f"<{number}>") for number in range(len(roles))]
    assert -1 not in places
    assert places == sorted(places)
