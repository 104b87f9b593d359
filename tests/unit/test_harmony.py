"""Models that speak harmony: prompts as they read them, answers as they write them."""

import itertools
import json
from itertools import pairwise
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.harmony import HarmonyTemplate
from semantic_trio.adapters.text.harmony_reader import LONGEST_HEADER, HarmonyReader
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.prompt import Known
from tests.harmony import TEMPLATE, TOKENS, harmony_tokenizer
from tests.parts import joined
from tests.vocabulary import write_model

LOOK = Tool(
    "look", "Looks around", '{"type": "object", "properties": {"where": {"type": "string"}}}'
)
TOOLS = (LOOK, Tool("srv.ls", "Lists", "{}"))
THOUGHT, FINAL = (
    "<|channel|>analysis<|message|>Let me think.<|end|>",
    "<|start|>assistant<|channel|>final<|message|>It is fine.",
)


def read(*pieces: str, may_call: bool = True, opening: str = "") -> list[Part]:
    reader = HarmonyReader(may_call, TOOLS, opening)
    return joined([part for piece in pieces for part in reader.push(piece)] + reader.finish())


def call(arguments: str = "{}", name: str = "look") -> ToolCall:
    return ToolCall("", name, arguments)


ANSWERS: dict[str, tuple[str, list[Part]]] = {
    "thought and answer": (THOUGHT + FINAL, [Thinking("Let me think."), Text("It is fine.")]),
    "answer alone": ("<|channel|>final<|message|>It is fine.<|return|>", [Text("It is fine.")]),
    "recipient behind the channel": (
        THOUGHT
        + (
            "<|start|>assistant<|channel|>commentary to=functions.look "
            '<|constrain|>json<|message|>{"where": "a"}<|call|>'
        ),
        [Thinking("Let me think."), call('{"where": "a"}')],
    ),
    "recipient before the channel": (
        ' to=functions.look<|channel|>commentary json<|message|>{"where": "a"}',
        [call('{"where": "a"}')],
    ),
    "recipient twice": (
        " to=functions.look<|channel|>commentary to=functions.look<|message|>{}",
        [call()],
    ),
    "without a constraint": (
        "<|channel|>commentary to=functions.look<|message|>{}<|call|>",
        [call()],
    ),
    "on the channel of thoughts": (
        "<|channel|>analysis to=functions.look code<|message|>{}<|call|>",
        [call()],
    ),
    "a name with a dot": (
        "<|channel|>commentary to=functions.srv.ls <|constrain|>json<|message|>{}",
        [call(name="srv.ls")],
    ),
    "without the namespace": (
        "<|channel|>commentary to=srv.ls <|constrain|>json<|message|>{}",
        [call(name="srv.ls")],
    ),
    "no arguments": ("<|channel|>commentary to=functions.look<|message|>", [call()]),
    "a preamble": (
        (
            "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.look<|message|>{}"
        ),
        [Text("I look."), call()],
    ),
    "a preamble and an answer": (
        "<|channel|>commentary<|message|>I look.<|end|>" + FINAL,
        [Text("I look.\n\nIt is fine.")],
    ),
    "two thoughts": (
        THOUGHT + "<|start|>assistant" + THOUGHT,
        [Thinking("Let me think.\n\nLet me think.")],
    ),
    "two calls": (
        (
            "<|channel|>commentary "
            "to=functions.look<|message|>{}<|call|><|start|>assistant<|channel|>commentary "
            "to=functions.srv.ls<|message|>{}"
        ),
        [call(), call(name="srv.ls")],
    ),
    "a form": ('<|channel|>final <|constrain|>json<|message|>{"a": 1}', [Text('{"a": 1}')]),
    # what the format does not allow
    "no header": ("It is fine.", [Text("It is fine.")]),
    "no channel": ("<|message|>It is fine.", [Text("It is fine.")]),
    "an unknown channel": ("<|channel|>loud<|message|>It is fine.", [Text("It is fine.")]),
    "the role again": (
        "<|start|>assistant<|channel|>final<|message|>It is fine.",
        [Text("It is fine.")],
    ),
    "no role": (
        THOUGHT + "<|channel|>final<|message|>It is fine.",
        [Thinking("Let me think."), Text("It is fine.")],
    ),
    "no end": (
        "<|channel|>analysis<|message|>Hm.<|channel|>final<|message|>So.",
        [Thinking("Hm."), Text("So.")],
    ),
    "no end, and the role": (
        "<|channel|>analysis<|message|>Hm." + FINAL,
        [Thinking("Hm."), Text("It is fine.")],
    ),
    "two channels": ("<|channel|>analysis<|channel|>final<|message|>So.", [Text("So.")]),
    "text between": (THOUGHT + " So.", [Thinking("Let me think."), Text("So.")]),
    "half a header": ("<|channel|>ana", []),
    "a header that does not end": (
        "<|channel|>" + "a" * LONGEST_HEADER,
        [Text("<|channel|>" + "a" * LONGEST_HEADER)],
    ),
    "another role": (
        THOUGHT + "<|start|>user<|message|>Do it.<|end|>" + FINAL,
        [Thinking("Let me think.")],
    ),
    "behind the answer": (
        THOUGHT + FINAL + "<|end|><|start|>assistant<|channel|>final<|message|>Again.",
        [Thinking("Let me think."), Text("It is fine.")],
    ),
    "no object": (
        "<|channel|>commentary to=functions.look<|message|>[1]<|call|>",
        [Text("<|channel|>commentary to=functions.look<|message|>[1]<|call|>")],
    ),
    "a tool of another kind": (
        "<|channel|>commentary to=browser.search<|message|>{}",
        [Text("{}")],
    ),
    "a mention": (
        "<|channel|>analysis<|message|>Is it <|message|> or to=functions.look?<|end|>",
        [Thinking("Is it <|message|> or to=functions.look?")],
    ),
}


@pytest.mark.parametrize("size", [1, 5, 10_000])
@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_as_what_it_says(name: str, size: int) -> None:
    text, parts = ANSWERS[name]
    assert read(*(text[at : at + size] for at in range(0, len(text), size))) == parts


WORDS = [
    "<|start|>",
    "assistant",
    "user",
    "<|channel|>",
    "analysis",
    "final",
    "commentary",
    " to=functions.look",
    "<|message|>",
    "<|end|>",
    "{}",
    "a",
    " ",
    "\n",
    "<|",
]


@given(
    words=st.lists(st.sampled_from(WORDS), max_size=14),
    places=st.lists(st.integers(0, 120), max_size=6),
)
def test_the_pieces_make_no_difference(words: list[str], places: list[int]) -> None:
    text = "".join(words)
    bounds = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    assert read(*(text[one:other] for one, other in itertools.pairwise(bounds))) == read(text)


@given(value=st.text())
def test_a_call_that_is_cut_off_is_no_call(value: str) -> None:
    head, arguments = (
        "<|channel|>commentary to=functions.look <|constrain|>json<|message|>",
        json.dumps({"where": value}),
    )
    assert [part for part in read(head + arguments) if isinstance(part, ToolCall)]
    for end in range(1, len(arguments)):
        assert not any(isinstance(part, ToolCall) for part in read(head + arguments[:end]))


def test_calls_are_text_where_none_may_be_made() -> None:
    assert read("<|channel|>commentary to=functions.look<|message|>{}", may_call=False) == [
        Text("{}")
    ]


def test_an_answer_that_was_ended_is_over() -> None:
    reader = HarmonyReader(may_call=True)
    reader.push(THOUGHT + FINAL)
    assert not reader.is_over
    reader.push("<|end|>")
    assert reader.is_over


# ------------------------------------------------------------------------------------------ prompts


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load_codec(
        write_model(
            tmp_path_factory.mktemp("model"), tokenizer=harmony_tokenizer(), chat_template=TEMPLATE
        )
    )


def said(role: Role, *parts: Part) -> Message:
    return Message(role, parts)


TALK = Conversation(
    (
        said(Role.SYSTEM, Text("S")),
        said(Role.SYSTEM, Text("T")),
        said(Role.USER, Text("u1")),
        said(Role.USER, Text("u2")),
        said(
            Role.ASSISTANT,
            Thinking("t1"),
            Text("a1"),
            ToolCall("1", "look", '{"where": "p"}'),
            ToolCall("2", "srv.ls", "{}"),
        ),
        said(
            Role.USER, ToolResult("1", 'r "1"\n'), ToolResult("2", "r2", is_error=True), Text("u3")
        ),
        said(Role.ASSISTANT, Thinking("t2"), Text("a2")),
        said(Role.SYSTEM, Text("late")),
        said(Role.USER, Text("u4")),
    ),
    TOOLS,
)
SYSTEM = (
    "<|start|>system<|message|>You are a model.\nReasoning: {}\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message."
)


def test_a_conversation_is_told_as_the_format_has_it(codec: TokenizerCodec) -> None:
    assert codec.decode(codec.encode_prompt(TALK).tokens) == (
        SYSTEM.format("medium")
        + "\nCalls to these tools must go to the commentary channel: functions.<|end|>"
        "<|start|>developer<|message|># Instructions\n\nS\n\nT\n\n# Tools\n\n## "
        "functions\n\nnamespace functions {\n// Looks around\n"
        "type look = (_: any) => any;\n// Lists\ntype srv.ls = (_: any) => any;\n} // namespace "
        "functions<|end|>"
        "<|start|>user<|message|>u1<|end|><|start|>user<|message|>u2<|end|>"
        "<|start|>assistant<|channel|>analysis<|message|>t1<|end|><|start|>assistant<|channel|>commentary<|message|>a1<|end|>"
        '<|start|>assistant to=functions.look<|channel|>commentary json<|message|>{"where": '
        '"p"}<|call|>'
        "<|start|>assistant to=functions.srv.ls<|channel|>commentary json<|message|>{}<|call|>"
        '<|start|>functions.look to=assistant<|channel|>commentary<|message|>"r \\"1\\"\\n"<|end|>'
        '<|start|>functions.srv.ls to=assistant<|channel|>commentary<|message|>"Error: '
        'r2"<|end|><|start|>user<|message|>u3<|end|>'
        "<|start|>assistant<|channel|>analysis<|message|>t2<|end|><|start|>assistant<|channel|>final<|message|>a2<|end|>"
        "<|start|>user<|message|><system-reminder>\nlate\n</system-reminder><|end|><|start|>user<|message|>u4<|end|><|start|>assistant"
    )


def test_effort_reaches_the_model(codec: TokenizerCodec) -> None:
    def told(**choice: object) -> str:
        short = attrs.evolve(TALK, messages=TALK.messages[2:3], tools=(), **choice)  # type: ignore[arg-type]
        return codec.decode(codec.encode_prompt(short).tokens)

    asked = "<|end|><|start|>user<|message|>u1<|end|><|start|>assistant"
    assert told() == told(thinks=True) == SYSTEM.format("medium") + asked
    assert told(thinks=True, effort="max") == SYSTEM.format("high") + asked
    assert (
        told(thinks=False)
        == SYSTEM.format("low") + asked + "<|channel|>analysis<|message|><|end|><|start|>assistant"
    )


def test_what_was_read_up_to_an_answer_is_never_changed(codec: TokenizerCodec) -> None:
    template = codec._template
    assert isinstance(template, HarmonyTemplate)
    layouts = [
        template.layout(attrs.evolve(TALK, messages=TALK.messages[:count]))
        for count in range(3, len(TALK.messages) + 1)
    ]
    for short, long in pairwise(layouts):
        assert long.text.startswith(short.text[: short.ends[-1]])
        assert long.starts[: len(short.starts)] == short.starts
        assert long.ends[: len(short.ends)] == short.ends


@pytest.mark.parametrize("answer", [4, 6])
def test_a_conversation_goes_on_in_the_tokens_of_its_answer(
    answer: int, codec: TokenizerCodec
) -> None:
    before, after = (
        attrs.evolve(TALK, messages=TALK.messages[:count]) for count in (answer, answer + 2)
    )
    written = "<|channel|>analysis<|message|>Own words." + (
        "<|end|>" + FINAL
        if answer == 6
        else '<|end|><|start|>assistant to=functions.look<|message|>{"where":"p"}'
    )
    known = (*codec.encode_prompt(before).tokens, *codec.encode_text(written))

    prompt = codec.encode_prompt(after, Known(answer + 1, known))

    assert prompt.tokens[: len(known)] == known
    rest = codec.decode(prompt.tokens[len(known) :])
    assert rest.startswith(
        "<|call|><|start|>functions.look to=assistant"
        if answer == 4
        else "<|end|><|start|>user<|message|><system-reminder>"
    )
    changed = codec.encode_prompt(
        attrs.evolve(after, thinks=True, effort="high"), Known(answer + 1, known)
    )
    assert "Reasoning: high" in codec.decode(changed.tokens), "another effort is another front"


def test_the_head_ends_with_the_tools(codec: TokenizerCodec) -> None:
    for messages in (TALK.messages[:4], TALK.messages[2:4]):
        prompt = codec.encode_prompt(attrs.evolve(TALK, messages=messages))
        assert codec.decode(prompt.tokens[: prompt.head]).endswith(
            "} // namespace functions<|end|>"
        )


@pytest.mark.parametrize(
    ("name", "rest"),
    [(None, 'look<|channel|>commentary json<|message|>{"where": "a"}'), ("look", '{"where": "a"}')],
)
def test_a_demanded_call_is_begun_and_read(
    name: str | None, rest: str, codec: TokenizerCodec
) -> None:
    demanded = attrs.evolve(TALK, choice=ToolChoice(Calling.REQUIRED, name))
    prompt = codec.encode_prompt(demanded)
    assert codec.decode(prompt.tokens).endswith("<|start|>assistant" + prompt.opening)
    reader = codec.reader(demanded, prompt.opening)
    assert joined([*reader.push(rest), *reader.finish()]) == [call('{"where": "a"}')]
    assert codec.grammar(demanded, prompt.opening) is not None


def test_an_answer_of_a_form_begins_at_once(codec: TokenizerCodec) -> None:
    formed = attrs.evolve(TALK, tools=(), schema='{"type": "object"}')
    prompt = codec.encode_prompt(formed)
    assert prompt.opening == "<|channel|>final<|message|>"
    reader = codec.reader(formed, prompt.opening)
    assert [*reader.push("{}"), *reader.finish()] == [Text("{}")]
    assert codec.grammar(formed, prompt.opening) is not None
    assert codec.encode_prompt(attrs.evolve(formed, tools=TOOLS)).opening == "", (
        "a call may come instead"
    )


def test_tokens_of_the_format_are_text_to_the_reader_and_those_that_end_answers_end_them(
    codec: TokenizerCodec,
) -> None:
    ids = {token: codec.encode_text(token)[-1] for token in TOKENS}
    assert {ids["<|call|>"], ids["<|return|>"]} <= codec.stop_tokens
    assert ids["<|end|>"] not in codec.stop_tokens
    decoder = codec.decoder()
    assert "".join(map(decoder.push, codec.encode_text(THOUGHT + FINAL))) == THOUGHT + FINAL


def test_other_templates_are_none_of_harmony(tmp_path: Path) -> None:
    assert not isinstance(load_codec(write_model(tmp_path))._template, HarmonyTemplate)


# --------------------------------------------------------------------------------------- held calls

STRICT = Tool(
    "look",
    "Looks around",
    '{"type": "object", "properties": {"where": {"enum": ["sea", "sky"]}}, "required": ["where"]}',
    is_strict=True,
)
HELD = Conversation((Message(Role.USER, (Text("go"),)),), (STRICT, TOOLS[1]))
AUTO_CALL = "<|channel|>commentary to=functions.look <|constrain|>json<|message|>"


def accepted(codec: TokenizerCodec, conversation: Conversation, answer: str) -> str:
    """As much of an answer as may come, with `!` at its end where the answer may end there."""
    grammar = codec.grammar(conversation, codec.encode_prompt(conversation).opening)
    assert grammar is not None
    state, taken = grammar.start(), ""
    for token in codec._tokenizer.encode(answer, add_special_tokens=False).ids:
        if not state.allowed()[token // 8] >> token % 8 & 1:
            return taken
        state.take(token)
        taken += codec.decode([token])
    ends = state.allowed()
    return taken + "!" * any(ends[token // 8] >> token % 8 & 1 for token in codec.stop_tokens)


@pytest.mark.parametrize(
    "answer",
    [
        THOUGHT + FINAL,
        "<|channel|>final<|message|>It is {fine}.",
        AUTO_CALL + '{"where":"sea"}',
        THOUGHT + "<|start|>assistant" + AUTO_CALL + '{"where":"sky"}',
        THOUGHT
        + "<|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
        + AUTO_CALL
        + '{"where":"sea"}',
        ' to=functions.look<|channel|>commentary json<|message|>{"where":"sea"}',
        AUTO_CALL.replace("look", "srv.ls") + '{"any":"thing"}',
    ],
)
def test_strict_tools_leave_all_that_is_no_call_as_it_is(
    answer: str, codec: TokenizerCodec
) -> None:
    assert accepted(codec, HELD, answer) == f"{answer}!"


@pytest.mark.parametrize(
    ("begin", "wrong"),
    [
        (AUTO_CALL + '{"where":"s', "un"),
        (' to=functions.look<|channel|>commentary json<|message|>{"where":"s', "un"),
        (AUTO_CALL + "{", "}"),
        ("<|channel|>commentary to=functions.", "fly"),
        (THOUGHT, "<|start|>user"),
    ],
)
def test_strict_tools_are_held_to_their_schema(
    begin: str, wrong: str, codec: TokenizerCodec
) -> None:
    assert len(accepted(codec, HELD, begin + wrong)) < len(begin + wrong)


def test_only_allowed_tools_may_be_called(codec: TokenizerCodec) -> None:
    allowed = attrs.evolve(HELD, tools=TOOLS, choice=ToolChoice(allowed=("srv.ls",)))

    assert accepted(codec, allowed, AUTO_CALL.replace("look", "srv.ls") + "{}").endswith("!")
    assert not accepted(codec, allowed, AUTO_CALL).endswith("look")
    assert accepted(codec, allowed, THOUGHT + FINAL).endswith("!")


def test_a_schema_beside_tools_holds_what_is_said(codec: TokenizerCodec) -> None:
    formed = attrs.evolve(HELD, schema='{"type": "boolean"}')

    assert (
        accepted(codec, formed, "<|channel|>final<|message|>true")
        == "<|channel|>final<|message|>true!"
    )
    assert (
        accepted(codec, formed, "<|channel|>final<|message|>Well") == "<|channel|>final<|message|>"
    )
    assert accepted(codec, formed, AUTO_CALL + '{"where":"sea"}').endswith("!")


def test_a_bound_on_thoughts_goes_with_strict_tools(codec: TokenizerCodec) -> None:
    bounded = attrs.evolve(HELD, thought_budget=500)

    assert accepted(
        codec, bounded, THOUGHT + "<|start|>assistant" + AUTO_CALL + '{"where":"sea"}'
    ).endswith("!")
