"""What clients change without meaning it changes nothing: a case for each rule, and the promise of
all of them.
"""

import json
import random

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from semantic_trio.domain.canonical import BILLING_HEADER, RULES, canonical
from semantic_trio.domain.canonical_tools import canonical_json
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.eviction import Rank

EDIT = Tool(
    "Edit",
    "Edit a file",
    json.dumps(
        {
            "type": "object",
            "properties": {
                "path": {"type": "string"},
                "all": {"type": "boolean", "default": False},
            },
        }
    ),
)
HIDDEN = Tool("Search", "Search the web", '{"type": "object"}', is_deferred=True)


def says(role: Role, *parts: Part | str) -> Message:
    return Message(role, tuple(Text(part) if isinstance(part, str) else part for part in parts))


def user(*parts: Part | str) -> Message:
    return says(Role.USER, *parts)


def system(*parts: Part | str) -> Message:
    return says(Role.SYSTEM, *parts)


def assistant(*parts: Part | str) -> Message:
    return says(Role.ASSISTANT, *parts)


def talk(*messages: Message, tools: tuple[Tool, ...] = ()) -> Conversation:
    return Conversation(messages, tools)


CALLS = assistant(ToolCall("1", "Edit", '{"path": "a"}'), ToolCall("2", "Edit", '{"path": "b"}'))
ONE, TWO = ToolResult("1", "one"), ToolResult("2", "two")

# What a client sends in two requests, meaning the same; and the rule without which they differ.
SAME = {
    "billing block dropped": [
        (
            talk(system(f"{BILLING_HEADER} cch=a0a9f;", "You help."), user("hi")),
            talk(system(f"{BILLING_HEADER} cch=bd369;", "You help."), user("hi")),
        ),
        (
            talk(system(f"{BILLING_HEADER} v=1\nYou help."), user("hi")),
            talk(system(f"{BILLING_HEADER} v=2\nYou help."), user("hi")),
        ),
    ],
    "counters dropped": [
        (
            talk(
                user("hi"), system("<total_tokens>900 tokens left</total_tokens>"), assistant("yes")
            ),
            talk(
                user("hi"), system("<total_tokens>800 tokens left</total_tokens>"), assistant("yes")
            ),
        ),
        (
            talk(system("You help.\n<total_tokens>9 left</total_tokens>"), user("hi")),
            talk(system("You help.\n"), user("hi")),
        ),
    ],
    "what says nothing dropped": [
        (
            talk(user("hi"), assistant("\n\n", ToolCall("1", "Edit", "{}"))),
            talk(user("hi"), assistant(ToolCall("1", "Edit", "{}"))),
        ),
        (talk(user("hi"), assistant(""), user("there")), talk(user("hi"), user("there"))),
    ],
    "JSON in order": [
        (
            talk(assistant(ToolCall("1", "Other", '{"b":1,"a":2}'))),
            talk(assistant(ToolCall("1", "Other", '{"a": 2, "b": 1}'))),
        ),
        (
            talk(assistant(ToolCall("1", "Edit", '{"all": false, "path": "a"}')), tools=(EDIT,)),
            talk(assistant(ToolCall("1", "Edit", '{"path": "a"}')), tools=(EDIT,)),
        ),
        (
            talk(user("hi"), tools=(Tool("T", "", '{"b":1,"a":2}'),)),
            talk(user("hi"), tools=(Tool("T", "", '{"a":2,"b":1}'),)),
        ),
    ],
    "deferred tools where they are loaded": [
        (talk(user("hi"), tools=(EDIT,)), talk(user("hi"), tools=(EDIT, HIDDEN))),
        (
            talk(user("hi"), tools=(EDIT, HIDDEN)),
            talk(user("hi"), tools=(HIDDEN, attrs.evolve(HIDDEN, name="More"), EDIT)),
        ),
    ],
    "neighbouring results in one message": [
        (talk(CALLS, user(ONE), user(TWO)), talk(CALLS, user(ONE, TWO))),
        (talk(CALLS, user(ONE), user(TWO, "go on")), talk(CALLS, user(ONE, TWO, "go on"))),
    ],
    "results in call order": [
        (talk(CALLS, user(TWO, ONE)), talk(CALLS, user(ONE, TWO))),
        (talk(CALLS, user("go on", TWO, ONE)), talk(CALLS, user(ONE, TWO, "go on"))),
    ],
}
CASES = [(name, one, other) for name, pairs in SAME.items() for one, other in pairs]
HELP, ENVIRONMENT, PLAN = system("You help."), system("# Environment"), system("Plan mode.")
# Two requests that say different things, and up to where they have to be equal.
EQUAL_UP_TO = {
    "late system messages before the first user message": [
        # The first user message grows before it is answered.
        (
            talk(HELP, user("hi"), ENVIRONMENT),
            talk(HELP, user("hi", "[interrupted]", "go on"), ENVIRONMENT),
            "hi",
        ),
        (
            talk(user("hi"), ENVIRONMENT),
            talk(user("hi", "and?"), ENVIRONMENT, assistant("yes"), user("more"), PLAN),
            "hi",
        ),
        # Another session of the project.
        (
            talk(user("# Project", "hi"), ENVIRONMENT),
            talk(user("# Project", "bye"), ENVIRONMENT),
            "# Project",
        ),
        # Several of them.
        (talk(user("hi"), ENVIRONMENT, PLAN), talk(user("bye"), ENVIRONMENT, PLAN), "Plan mode."),
        # Behind the summary and the prompt of a conversation that was compacted, of which the
        # prompt grows before it is answered.
        (
            talk(HELP, user("summary"), user("hi"), ENVIRONMENT),
            talk(HELP, user("summary"), user("hi", "go on"), ENVIRONMENT),
            "hi",
        ),
        (
            talk(HELP, user("summary"), user("hi"), ENVIRONMENT),
            talk(HELP, user("summary"), user("hi"), ENVIRONMENT, user("so"), PLAN),
            "hi",
        ),
        # The same conversation before and after it was compacted.
        (
            talk(HELP, user("hi"), ENVIRONMENT, assistant("yes")),
            talk(HELP, user("summary"), user("on"), ENVIRONMENT),
            "# Environment",
        ),
    ],
}
BEGINNINGS = [(name, *case) for name, cases in EQUAL_UP_TO.items() for case in cases]


@pytest.mark.parametrize(("rule", "one", "other"), CASES, ids=[name for name, _, _ in CASES])
def test_what_means_the_same_is_the_same_and_only_for_its_rule(
    rule: str, one: Conversation, other: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert canonical(one) == canonical(other)
    monkeypatch.setattr(
        "semantic_trio.domain.canonical.RULES", tuple(each for each in RULES if each.name != rule)
    )
    assert canonical(one) != canonical(other), "the rule is of no use"


def told(conversation: Conversation, end: str) -> list[tuple[Role, Part]] | None:
    """Everything that is said up to a text; None where it is not said."""
    parts = [
        (message.role, part)
        for message in canonical(conversation).messages
        for part in message.parts
    ]
    return next((parts[: at + 1] for at, (_, part) in enumerate(parts) if part == Text(end)), None)


@pytest.mark.parametrize(
    ("rule", "one", "other", "end"), BEGINNINGS, ids=[name for name, *_ in BEGINNINGS]
)
def test_requests_begin_alike_and_only_for_the_rule(
    rule: str, one: Conversation, other: Conversation, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [
        part.text
        for message in one.messages
        for part in message.parts
        if isinstance(part, Text) and message.role is Role.SYSTEM
    ]
    common = told(one, end)

    assert common == told(other, end)
    assert common is not None
    assert {
        part.text for role, part in common if role is Role.SYSTEM and isinstance(part, Text)
    } == set(texts)
    monkeypatch.setattr(
        "semantic_trio.domain.canonical.RULES", tuple(each for each in RULES if each.name != rule)
    )
    without = told(one, end)
    assert without != told(other, end) or without != common, "the rule is of no use"


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == {*SAME, *EQUAL_UP_TO}
    assert not SAME.keys() & EQUAL_UP_TO.keys()


def test_a_tool_is_told_where_it_is_loaded() -> None:
    result = ToolResult("1", "", loads=("Search", "Unknown"))

    ordered = canonical(talk(CALLS, user(result), tools=(EDIT, HIDDEN)))

    assert [tool.name for tool in ordered.tools] == ["Edit"]
    [told] = ordered.messages[1].results
    definition, unknown = told.text.split("\n")
    assert json.loads(definition) == {
        "name": "Search",
        "description": "Search the web",
        "parameters": {"type": "object"},
    }
    assert (unknown, told.loads) == ("Unknown", ())


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (
            talk(system("The line <total_tokens>9</total_tokens> is a counter.")),
            "The line <total_tokens>9</total_tokens> is a counter.",
        ),
        (talk(user("<total_tokens>9 left</total_tokens>")), "<total_tokens>9 left</total_tokens>"),
        (talk(user(f"{BILLING_HEADER} what is this?")), f"{BILLING_HEADER} what is this?"),
        (talk(user("  ")), "  "),
    ],
)
def test_what_people_say_stays(before: Conversation, kept: str) -> None:
    assert [message.text for message in canonical(before).messages] == [kept]


@pytest.mark.parametrize("messages", [(), (assistant(" "),), (system(f"{BILLING_HEADER} x"),)])
def test_who_says_nothing_is_silent(messages: tuple[Message, ...]) -> None:
    assert canonical(talk(*messages)).messages == (user(),)


def test_other_system_messages_stay_where_they_stand() -> None:
    messages = (
        user("hi"),
        assistant("yes"),
        system("Be brief."),
        user("so"),
        system("Be kind."),
        assistant("no"),
        user("hm"),
        user("hm"),
        PLAN,
    )

    assert canonical(talk(*messages)).messages == messages


def test_a_system_message_behind_a_second_user_message_stays_there_so_that_the_first_one_keeps_its_place() -> (
    None
):
    ordered = canonical(talk(user("hi"), ENVIRONMENT, user("more"), PLAN))

    assert [message.text for message in ordered.messages] == [
        "# Environment",
        "hi",
        "more",
        "Plan mode.",
    ]
    assert canonical(ordered) == ordered


def test_a_late_system_message_is_no_part_of_the_head_and_has_another_name_than_a_leading_one() -> (
    None
):
    ordered, leading = (
        canonical(talk(HELP, user("hi"), ENVIRONMENT)),
        canonical(talk(HELP, ENVIRONMENT, user("hi"))),
    )

    assert [conversation.leading for conversation in (ordered, leading)] == [1, 2]
    assert chain(ordered)[0] == chain(leading)[0]
    assert chain(ordered)[1] != chain(leading)[1]


def test_a_system_message_behind_several_user_messages_leaves_their_order_and_their_breakpoint() -> (
    None
):
    marked = attrs.evolve(ENVIRONMENT, rank=Rank.MARKED)

    ordered = canonical(
        talk(HELP, user("summary"), user("hi"), marked, assistant("yes"), user("more"), PLAN)
    )

    texts = [message.text for message in ordered.messages]
    assert texts == ["You help.", "# Environment", "summary", "hi", "yes", "more", "Plan mode."]
    assert [message.rank for message in ordered.messages[1:4]] == [Rank.MARKED, None, Rank.MARKED]
    assert canonical(ordered) == ordered


@pytest.mark.parametrize(
    ("of_user", "of_system", "ranks"),
    [
        (None, None, [Rank.PLAIN, None]),
        (None, Rank.MARKED, [Rank.MARKED, Rank.MARKED]),
        (Rank.LONG, Rank.MARKED, [Rank.MARKED, Rank.LONG]),
        (Rank.MARKED, None, [Rank.PLAIN, Rank.MARKED]),
    ],
)
def test_a_breakpoint_behind_both_stays_behind_both(
    of_user: Rank | None, of_system: Rank | None, ranks: list[Rank | None]
) -> None:
    """And where other sessions leave the prompt there is one in any case."""
    ordered = canonical(
        talk(attrs.evolve(user("hi"), rank=of_user), attrs.evolve(ENVIRONMENT, rank=of_system))
    )

    assert [message.rank for message in ordered.messages] == ranks


@pytest.mark.parametrize(
    "arguments", ["", "{", "[1]", '"text"', "NaN", "[" * 100_000, '{"a": 1, "a": 2}']
)
def test_arguments_that_are_no_object_are_nobodys_problem(arguments: str) -> None:
    ordered = canonical(
        talk(
            assistant(ToolCall("1", "Edit", arguments)),
            tools=(EDIT, Tool("Odd", "", "[]"), Tool("Odder", "", '{"properties": 5}')),
        )
    )

    assert canonical(ordered) == ordered


@pytest.mark.parametrize("number", ["1e999999", "-1E+400", "NaN", "Infinity", "1" * 5000])
def test_a_number_that_no_float_holds_stays_as_it_was_written(number: str) -> None:
    arguments = f'{{"z": {number}, "a": [1]}}'
    tool = Tool("Edit", "", f'{{"properties": {{"z": {{"default": {number}}}}}}}')

    ordered = canonical(talk(assistant(ToolCall("1", "Edit", arguments)), tools=(tool,)))

    assert ordered.messages[-1].calls[0].arguments == arguments
    assert ordered.tools[0].parameters == tool.parameters
    assert canonical(ordered) == ordered


def test_numbers_that_no_float_holds_are_told_apart() -> None:
    names = [
        chain(talk(assistant(ToolCall("1", "Edit", f'{{"a": {number}}}'))))[-1]
        for number in ("1e999", "1e9999", "-1e999")
    ]

    assert len(set(names)) == 3


@pytest.mark.parametrize(
    ("default", "given"), [("1", "true"), ("[1]", "[true]"), ('{"x": true}', '{"x": 1}')]
)
def test_true_is_not_one(default: str, given: str) -> None:
    tool = Tool("T", "", f'{{"properties": {{"n": {{"default": {default}}}, "odd": true}}}}')
    call = assistant(ToolCall("1", "T", f'{{"n": {given}}}'))

    assert canonical(talk(call, tools=(tool,))).messages == (call,)


TEXTS = st.text(st.sampled_from("ab \n<>{}\"'é"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
)
ARGUMENTS = st.dictionaries(st.sampled_from(["path", "text", "all", "n"]), VALUES, max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns as an agent has them: what is asked, calls, their results, an answer."""
    messages: list[Message] = [system(draw(TEXTS) or "You help.")]
    for turn in range(draw(st.integers(1, 4))):
        messages.append(user(draw(TEXTS) or "hi"))
        messages += [system(f"s{draw(TEXTS)}") for _ in range(draw(st.integers(0, 2)))]
        calls = tuple(
            ToolCall(f"{turn}.{at}", "Edit", json.dumps(draw(ARGUMENTS)))
            for at in range(draw(st.integers(0, 3)))
        )
        if calls:
            messages.append(assistant(draw(TEXTS), *calls))
            messages.append(user(*(ToolResult(call.id, draw(TEXTS)) for call in calls)))
        messages.append(assistant(draw(TEXTS) + "."))
    return talk(*messages, tools=(EDIT, HIDDEN))


def rewritten(conversation: Conversation, chance: random.Random) -> Conversation:
    """The same, told back as clients do."""
    return attrs.evolve(
        conversation, messages=tuple(_retold(message, chance) for message in conversation.messages)
    )


def _retold(message: Message, chance: random.Random) -> Message:
    parts = [
        _respelled(part, chance)
        for part in message.parts
        if not (isinstance(part, Text) and message.role is Role.ASSISTANT and not part.text.strip())
    ]
    if message.results:
        chance.shuffle(parts)
    if message.role is Role.SYSTEM:
        parts.insert(0, Text(f"{BILLING_HEADER} cch={chance.random()};"))
    return attrs.evolve(message, parts=tuple(parts))


def _respelled(part: Part, chance: random.Random) -> Part:
    if not isinstance(part, ToolCall):
        return part
    arguments = {"all": False} | json.loads(part.arguments)
    keys = list(arguments)
    chance.shuffle(keys)
    return attrs.evolve(
        part, arguments=json.dumps({key: arguments[key] for key in keys}, separators=(",", ":"))
    )


@given(conversations(), st.randoms(use_true_random=False))
def test_a_conversation_told_back_is_the_same_and_only_grows(
    conversation: Conversation, chance: random.Random
) -> None:
    said = canonical(conversation)
    told = canonical(rewritten(conversation, chance))
    longer = attrs.evolve(
        told, messages=(*rewritten(conversation, chance).messages, user("and now?"))
    )

    assert told == said
    assert canonical(longer).messages[: len(said.messages)] == said.messages
    assert chain(canonical(longer))[: len(said.messages)] == chain(said)
    assert canonical(said) == said


@given(VALUES)
def test_json_in_order_is_the_same_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)

    assert json.loads(canonical_json(text)) == value
    assert canonical_json(canonical_json(text)) == canonical_json(text)
