"""What clients change without meaning it changes nothing: a case for each rule, and the promise of all of them."""

import json
import random

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from semantic_trio.domain.canonical import BILLING_HEADER, RULES, canonical, canonical_json
from semantic_trio.domain.conversation import Conversation, Message, Part, Role, Text, Tool, ToolCall, ToolResult
from semantic_trio.domain.said import chain

EDIT = Tool(
    "Edit", "Edit a file", json.dumps({"type": "object", "properties": {"path": {"type": "string"}, "all": {"type": "boolean", "default": False}}})
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
        (talk(system(f"{BILLING_HEADER} v=1\nYou help."), user("hi")), talk(system(f"{BILLING_HEADER} v=2\nYou help."), user("hi"))),
    ],
    "counters dropped": [
        (
            talk(user("hi"), system("<total_tokens>900 tokens left</total_tokens>"), assistant("yes")),
            talk(user("hi"), system("<total_tokens>800 tokens left</total_tokens>"), assistant("yes")),
        ),
        (talk(system("You help.\n<total_tokens>9 left</total_tokens>"), user("hi")), talk(system("You help.\n"), user("hi"))),
    ],
    "what says nothing dropped": [
        (talk(user("hi"), assistant("\n\n", ToolCall("1", "Edit", "{}"))), talk(user("hi"), assistant(ToolCall("1", "Edit", "{}")))),
        (talk(user("hi"), assistant(""), user("there")), talk(user("hi"), user("there"))),
    ],
    "JSON in order": [
        (talk(assistant(ToolCall("1", "Other", '{"b":1,"a":2}'))), talk(assistant(ToolCall("1", "Other", '{"a": 2, "b": 1}')))),
        (
            talk(assistant(ToolCall("1", "Edit", '{"all": false, "path": "a"}')), tools=(EDIT,)),
            talk(assistant(ToolCall("1", "Edit", '{"path": "a"}')), tools=(EDIT,)),
        ),
        (talk(user("hi"), tools=(Tool("T", "", '{"b":1,"a":2}'),)), talk(user("hi"), tools=(Tool("T", "", '{"a":2,"b":1}'),))),
    ],
    "deferred tools where they are loaded": [
        (talk(user("hi"), tools=(EDIT,)), talk(user("hi"), tools=(EDIT, HIDDEN))),
        (talk(user("hi"), tools=(EDIT, HIDDEN)), talk(user("hi"), tools=(HIDDEN, attrs.evolve(HIDDEN, name="More"), EDIT))),
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


@pytest.mark.parametrize(("rule", "one", "other"), CASES, ids=[name for name, _, _ in CASES])
def test_what_means_the_same_is_the_same_and_only_for_its_rule(
    rule: str, one: Conversation, other: Conversation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert canonical(one) == canonical(other)
    monkeypatch.setattr("semantic_trio.domain.canonical.RULES", tuple(each for each in RULES if each.name != rule))
    assert canonical(one) != canonical(other), "the rule is of no use"


def test_every_rule_has_a_case() -> None:
    assert {rule.name for rule in RULES} == set(SAME)


def test_a_tool_is_told_where_it_is_loaded() -> None:
    result = ToolResult("1", "", loads=("Search", "Unknown"))

    ordered = canonical(talk(CALLS, user(result), tools=(EDIT, HIDDEN)))

    assert [tool.name for tool in ordered.tools] == ["Edit"]
    [told] = ordered.messages[1].results
    definition, unknown = told.text.split("\n")
    assert json.loads(definition) == {"name": "Search", "description": "Search the web", "parameters": {"type": "object"}}
    assert (unknown, told.loads) == ("Unknown", ())


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (talk(system("The line <total_tokens>9</total_tokens> is a counter.")), "The line <total_tokens>9</total_tokens> is a counter."),
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


def test_system_messages_stay_where_they_stand() -> None:
    messages = (user("hi"), system("Be kind."), assistant("yes"), system("Be brief."))

    assert canonical(talk(*messages)).messages == messages


@pytest.mark.parametrize("arguments", ["", "{", "[1]", '"text"', "NaN", "[" * 100_000, '{"a": 1, "a": 2}'])
def test_arguments_that_are_no_object_are_nobodys_problem(arguments: str) -> None:
    ordered = canonical(
        talk(assistant(ToolCall("1", "Edit", arguments)), tools=(EDIT, Tool("Odd", "", "[]"), Tool("Odder", "", '{"properties": 5}')))
    )

    assert canonical(ordered) == ordered


@pytest.mark.parametrize(("default", "given"), [("1", "true"), ("[1]", "[true]"), ('{"x": true}', '{"x": 1}')])
def test_true_is_not_one(default: str, given: str) -> None:
    tool = Tool("T", "", f'{{"properties": {{"n": {{"default": {default}}}, "odd": true}}}}')
    call = assistant(ToolCall("1", "T", f'{{"n": {given}}}'))

    assert canonical(talk(call, tools=(tool,))).messages == (call,)


TEXTS = st.text(st.sampled_from("ab \n<>{}\"'é"), max_size=12)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)
ARGUMENTS = st.dictionaries(st.sampled_from(["path", "text", "all", "n"]), VALUES, max_size=4)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Turns as an agent has them: what is asked, calls, their results, an answer."""
    messages: list[Message] = [system(draw(TEXTS) or "You help.")]
    for turn in range(draw(st.integers(1, 4))):
        messages.append(user(draw(TEXTS) or "hi"))
        calls = tuple(ToolCall(f"{turn}.{at}", "Edit", json.dumps(draw(ARGUMENTS))) for at in range(draw(st.integers(0, 3))))
        if calls:
            messages.append(assistant(draw(TEXTS), *calls))
            messages.append(user(*(ToolResult(call.id, draw(TEXTS)) for call in calls)))
        messages.append(assistant(draw(TEXTS) + "."))
    return talk(*messages, tools=(EDIT, HIDDEN))


def rewritten(conversation: Conversation, chance: random.Random) -> Conversation:
    """The same, told back as clients do."""
    return attrs.evolve(conversation, messages=tuple(_retold(message, chance) for message in conversation.messages))


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
    return attrs.evolve(part, arguments=json.dumps({key: arguments[key] for key in keys}, separators=(",", ":")))


@given(conversations(), st.randoms(use_true_random=False))
def test_a_conversation_told_back_is_the_same_and_only_grows(conversation: Conversation, chance: random.Random) -> None:
    said = canonical(conversation)
    told = canonical(rewritten(conversation, chance))
    longer = attrs.evolve(told, messages=(*rewritten(conversation, chance).messages, user("and now?")))

    assert told == said
    assert canonical(longer).messages[: len(said.messages)] == said.messages
    assert chain(canonical(longer))[: len(said.messages)] == chain(said)
    assert canonical(said) == said


@given(VALUES)
def test_json_in_order_is_the_same_json(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False)

    assert json.loads(canonical_json(text)) == value
    assert canonical_json(canonical_json(text)) == canonical_json(text)
