"""One choice of thinking per conversation, told to templates that take it in ways of their own."""

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.adapters.text.switch import NO_SWITCH, Switch
from semantic_trio.domain.conversation import (
    EFFORTS,
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from semantic_trio.domain.prompt import Known
from tests.unit.templates import template
from tests.vocabulary import write_model

SAY = "{{ '[' + message.role + ']' + message.content }}"
EACH = "{% for message in messages %}" + SAY + "{% endfor %}"
SPEAK = "{% if add_generation_prompt %}{{ '[assistant]' }}"
# What templates of well-known families do with the choice, and nothing else of them.
SWITCHES: Mapping[str, tuple[str, Switch]] = {
    "end, on by itself": (  # Qwen 3
        EACH
        + SPEAK
        + "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}",
        Switch("enable_thinking"),
    ),
    "end, off by itself": (  # DeepSeek 3.1
        EACH
        + SPEAK
        + "{% if thinking %}{{ '<think>' }}{% else %}{{ '</think>' }}{% endif %}{% endif %}",
        Switch("thinking"),
    ),
    "front": (  # Gemma 4
        "{% if enable_thinking %}{{ '[system]<|think|>' }}{% endif %}"
        + EACH
        + SPEAK
        + "{% endif %}",
        Switch("enable_thinking", changes_front=True, toggle_changes_front=True),
    ),
    "every user": (  # GLM 4.5
        "{% for message in messages %}"
        + SAY
        + "{% if message.role == 'user' and enable_thinking is defined and not enable_thinking %}"
        "{{ '/nothink' }}"
        "{% endif %}{% endfor %}" + SPEAK + "{% endif %}",
        Switch("enable_thinking", changes_front=True, toggle_changes_front=True),
    ),
    "any effort": (  # gpt-oss
        "{{ 'Reasoning: ' + (reasoning_effort or 'medium') }}" + EACH + SPEAK + "{% endif %}",
        Switch(efforts=("low", "medium", "high"), changes_front=True),
    ),
    "two efforts": (  # Mistral
        "{% if reasoning_effort and reasoning_effort not in ['none', 'high'] %}{{ raise('none or high') }}{% endif %}"
        "{{ '[EFFORT]' + (reasoning_effort or 'none') }}" + EACH + SPEAK + "{% endif %}",
        Switch(efforts=("none", "high"), thinks_unasked=False, changes_front=True),
    ),
    "toggle and effort": (  # DeepSeek 4
        "{{ 'Think hard.' if thinking and reasoning_effort == 'max' }}"
        + EACH
        + SPEAK
        + "{{ '<think>' if thinking else '</think>' }}{% endif %}",
        Switch("thinking", efforts=("none", *EFFORTS), changes_front=True),
    ),
    "budget": (  # Seed-OSS
        "{% if thinking_budget is defined %}{{ '[system]Think ' ~ thinking_budget ~ ' tokens.' }}{% endif %}"
        + EACH
        + SPEAK
        + "{% endif %}",
        Switch(takes_budget=True, changes_front=True),
    ),
    "words": (  # Nemotron Nano 2
        "{% set ns = namespace(quiet=false) %}{% for message in messages %}{% if message.role == 'system' "
        "and '/no_think' in message.content %}"
        "{% set ns.quiet = true %}{% endif %}{{ '[' + message.role + ']' + message.content.replace('/no_think', '')"
        ".replace('/think', '') }}{% endfor %}"
        + SPEAK
        + "{{ '<think></think>' if ns.quiet else '<think>\n' }}{% endif %}",
        Switch(takes_words=True, changes_front=True),
    ),
    "moving": (  # tells the last user only: the same history would not stay the same text
        "{% for message in messages %}"
        + SAY
        + "{% if message.role == 'user' and loop.last and enable_thinking is false %}"
        "{{ '/no_think' }}{% endif %}"
        "{% endfor %}" + SPEAK + "{% endif %}",
        NO_SWITCH,
    ),
    "none": (EACH + SPEAK + "{% endif %}", NO_SWITCH),
}
TOOL = Tool("look", "Looks", "{}")


def said(role: Role, *parts: Part) -> Message:
    return Message(role, parts)


TALK = Conversation(
    (
        said(Role.SYSTEM, Text("S")),
        said(Role.USER, Text("u1")),
        said(Role.ASSISTANT, Thinking("t1"), Text("a1")),
        said(Role.USER, Text("u2")),
        said(Role.USER, Text("u3")),
        said(Role.SYSTEM, Text("late")),
        said(Role.ASSISTANT, Text("a2")),
        said(Role.USER, Text("u4")),
    )
)
CHOICES = [
    {"thinks": None},
    {"thinks": False},
    {"thinks": True},
    *({"thinks": True, "effort": effort} for effort in EFFORTS),
    {"thinks": True, "thought_budget": 700},
]


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_is_found_by_trying_the_template(name: str) -> None:
    source, expected = SWITCHES[name]
    found = template(source).capabilities.switch

    assert found == expected


@pytest.mark.parametrize("choice", CHOICES, ids=str)
@pytest.mark.parametrize("name", SWITCHES)
def test_whatever_is_chosen_all_is_told_and_the_front_stays(
    name: str, choice: dict[str, object]
) -> None:
    made = template(SWITCHES[name][0])
    talks = [attrs.evolve(TALK, messages=TALK.messages[:count], **choice) for count in (2, 5, 6, 8)]  # type: ignore[arg-type]
    layouts = [made.layout(talk) for talk in talks]

    for word in ("S", "u1", "t1", "a1", "u2", "u3", "late", "a2", "u4"):
        assert word in layouts[-1].text
    for short, long in pairwise(layouts):
        assert long.text.startswith(short.text[: short.ends[-1]])


def prompt(name: str, **choice: object) -> str:
    return template(SWITCHES[name][0]).prompt(
        attrs.evolve(TALK, messages=TALK.messages[:2], **choice)
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "off", "on"),
    [
        (
            "end, on by itself",
            "[system]S[user]u1[assistant]<think>\n\n</think>\n\n",
            "[system]S[user]u1[assistant]",
        ),
        (
            "end, off by itself",
            "[system]S[user]u1[assistant]</think>",
            "[system]S[user]u1[assistant]<think>",
        ),
        ("front", "[system]S[user]u1[assistant]", "[system]<|think|>[system]S[user]u1[assistant]"),
        ("every user", "[system]S[user]u1/nothink[assistant]", "[system]S[user]u1[assistant]"),
        (
            "any effort",
            "Reasoning: low[system]S[user]u1[assistant]",
            "Reasoning: medium[system]S[user]u1[assistant]",
        ),
        (
            "two efforts",
            "[EFFORT]none[system]S[user]u1[assistant]",
            "[EFFORT]high[system]S[user]u1[assistant]",
        ),
        (
            "budget",
            "[system]Think 0 tokens.[system]S[user]u1[assistant]",
            "[system]S[user]u1[assistant]",
        ),
        (
            "words",
            "[system]S\n[user]u1[assistant]<think></think>",
            "[system]S\n[user]u1[assistant]<think>\n",
        ),
    ],
)
def test_every_switch_is_reached(name: str, off: str, on: str) -> None:
    assert prompt(name, thinks=False) == off
    assert prompt(name, thinks=True) == on


def test_an_effort_is_the_nearest_that_the_template_knows() -> None:
    told = [
        prompt("any effort", thinks=True, effort=effort).partition("[")[0] for effort in EFFORTS
    ]
    assert told == [
        f"Reasoning: {word}" for word in ("low", "low", "medium", "high", "high", "high")
    ]
    assert {
        prompt("two efforts", thinks=True, effort=effort).partition("[system]")[0]
        for effort in EFFORTS
    } == {"[EFFORT]high"}
    assert "Think hard." in prompt("toggle and effort", thinks=True, effort="max")
    assert prompt("end, off by itself", thinks=True, effort="low").endswith("<think>")


def test_a_budget_is_told_to_a_template_that_takes_one() -> None:
    assert "Think 700 tokens." in prompt("budget", thinks=True, thought_budget=700)
    assert "Think 1024 tokens." in prompt("budget", thinks=True, effort="low")
    assert "tokens." not in prompt("budget", thinks=True, effort="max")


def test_words_make_a_system_message_where_there_is_none() -> None:
    made = template(SWITCHES["words"][0])
    assert (
        made.prompt(attrs.evolve(TALK, messages=TALK.messages[1:2], thinks=False))
        == "[system][user]u1[assistant]<think></think>"
    )


def test_a_demanded_call_ends_thoughts_and_leaves_the_front_alone() -> None:
    demanded = attrs.evolve(
        TALK,
        messages=TALK.messages[:2],
        tools=(TOOL,),
        choice=ToolChoice(Calling.REQUIRED, "look"),
        thinks=True,
    )
    for name in ("front", "end, off by itself", "any effort"):
        made = template(SWITCHES[name][0])
        free = made.prompt(attrs.evolve(demanded, choice=ToolChoice()))
        assert made.prompt(demanded).startswith(free.removesuffix("<think>"))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load_codec(
        write_model(tmp_path_factory.mktemp("model"), chat_template=SWITCHES["any effort"][0])
    )


def test_a_change_of_the_front_is_read_again_and_one_of_the_end_is_not(
    codec: TokenizerCodec, tmp_path: Path
) -> None:
    ends = load_codec(write_model(tmp_path, chat_template=SWITCHES["end, on by itself"][0]))
    before, after = (
        attrs.evolve(TALK, messages=TALK.messages[:2]),
        attrs.evolve(TALK, messages=TALK.messages[:4]),
    )
    for reader, effort, keeps in (
        (codec, None, True),
        (codec, "high", False),
        (ends, None, True),
        (ends, "high", True),
    ):
        told = (*reader.encode_prompt(before).tokens, 5, 6)
        prompt = reader.encode_prompt(
            attrs.evolve(after, thinks=effort and True, effort=effort), Known(3, told)
        )
        assert (prompt.tokens[: len(told)] == told) is keeps
        assert ("Reasoning: high" in reader.decode(prompt.tokens)) is (
            reader is codec and effort == "high"
        )


# As Nemotron Nano 2's, and as Hunyuan's: the word is looked for in what users say too.
HEARS = {
    "anywhere": "{% set ns = namespace(quiet=false) %}{% for message in messages %}{% if message.role != 'assistant' %}"
    "{% if '/no_think' in message.content %}{% set ns.quiet = true %}"
    "{% elif '/think' in message.content %}{% set ns.quiet = false %}{% endif %}{% endif %}"
    "{{ '[' + message.role + ']' + message.content.replace('/no_think', '').replace('/think', '').strip() }}{% endfor %}"
    + SPEAK
    + "{{ '<think></think>' if ns.quiet else '<think>\n' }}{% endif %}",
    "in front": EACH
    + SPEAK
    + "{% if messages[-1].content.startswith('/no_think') %}{{ '<think>\n\n</think>\n' }}{% endif %}{% endif %}",
}


def users(*words: str) -> Conversation:
    said = [
        Message(Role.ASSISTANT if at % 2 else Role.USER, (Text(word),))
        for at, word in enumerate(words)
    ]
    return Conversation(tuple(said))


def test_a_word_of_the_user_reaches_a_template_that_looks_for_it() -> None:
    made = template(HEARS["anywhere"])

    assert made.capabilities.switch.takes_user_words
    assert made.prompt(users("Look at it /no_think")).endswith(
        "[user]Look at it [assistant]<think></think>"
    )
    assert made.layout(users("Look at it /no_think")).opening == ""
    assert (
        made.layout(users("Look at it /no_think", "Well.", "Now /think hard")).opening
        == "<think>\n"
    )
    assert made.layout(users("Look at it")).opening == "<think>\n"


def test_a_word_of_the_user_in_front_is_seen_in_front() -> None:
    made = template(HEARS["in front"])

    assert made.capabilities.switch.takes_user_words
    assert (
        made.prompt(users("/no_think Look at it"))
        == "[user]/no_think Look at it[assistant]<think>\n\n</think>\n"
    )
    assert made.prompt(users("Look at /no_think")) == "[user]Look at /no_think[assistant]"


@pytest.mark.parametrize("name", HEARS)
def test_words_of_users_leave_what_was_said_before_as_it_is(name: str) -> None:
    made, words = (
        template(HEARS[name]),
        ("Look /no_think", "Well.", "/think again", "Hm.", "/no_think now"),
    )
    texts = [
        made.prompt(users(*words[:length]))
        .partition("[assistant]<think>")[0]
        .removesuffix("[assistant]")
        for length in (1, 3, 5)
    ]

    assert all(long.startswith(short) for short, long in pairwise(texts))


@pytest.mark.parametrize("name", SWITCHES)
def test_a_template_that_does_not_look_for_words_of_users_is_not_shown_them(name: str) -> None:
    assert not template(SWITCHES[name][0]).capabilities.switch.takes_user_words
