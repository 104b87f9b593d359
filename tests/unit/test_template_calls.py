"""Thoughts, calls and results as templates write them."""

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.formats.table import MISTRAL as MISTRAL_CALLS
from semantic_trio.adapters.text.formats.table import QWEN_XML
from semantic_trio.adapters.text.switch import Switch
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from semantic_trio.domain.errors import InvalidRequestError
from tests.unit.templates import (
    ANYWHERE,
    ASSISTANT,
    MIDWAY,
    QWEN,
    SYSTEM,
    TEMPLATES,
    TOOL,
    USER,
    conversation,
    message,
    template,
)

MISTRAL = """\
{%- set ns = namespace(turn=0) %}{{ '<s>' }}
{%- if tools %}{{ '[AVAILABLE_TOOLS]' + (tools | tojson) + '[/AVAILABLE_TOOLS]' }}{% endif %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) %}
        {%- if (message.role == 'user') != (ns.turn % 2 == 0) %}{{ raise('roles must alternate') }}{% endif %}
        {%- set ns.turn = ns.turn + 1 %}
    {%- endif %}
    {%- if message.role == 'user' %}{{ '[INST] ' + message.content + '[/INST]' }}
    {%- elif message.tool_calls %}{{ '[TOOL_CALLS] [' }}
        {%- for call in message.tool_calls %}
            {%- if call.id | length != 9 %}{{ raise('ids have nine letters') }}{% endif %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' + (call.function.arguments | tojson) + ', "id": "' + call.id + '"}' }}
            {{- ', ' if not loop.last else ']</s>' }}
        {%- endfor %}
    {%- elif message.role == 'assistant' %}{{ ' ' + message.content + '</s>' }}
    {%- elif message.role == 'tool' %}{{ '[TOOL_RESULTS] {"content": ' + message.content + ', "id": "' + message.tool_call_id + '"}[/TOOL_RESULTS]' }}
    {%- else %}{{ raise('only user, assistant and tool') }}
    {%- endif %}
{%- endfor %}"""


TOOLS_LAST = MISTRAL.replace("{%- if tools %}", "{%- if false %}").replace(
    "{{ '[INST] '",
    "{{ ('[AVAILABLE_TOOLS]' + (tools | tojson) if tools and loop.last else '') + '[INST] '",
)


XML = """\
{%- if tools %}{{ '<|im_start|>system\n' + (tools | tojson) + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content | trim }}
    {%- for call in message.tool_calls or [] %}
        {{- '\n<tool_call>\n<function=' + call.function.name + '>\n' }}
        {%- for name, value in call.function.arguments.items() %}
            {{- '<parameter=' + name + '>\n' + (value | string) + '\n</parameter>\n' }}
        {%- endfor %}
        {{- '</function>\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"""


# As Mistral Nemo: the system message stands in the last turn, if that is the user's.
SYSTEM_LAST = (
    MISTRAL.replace("{%- if tools %}", "{%- if false %}")
    .replace(
        "{%- else %}{{ raise('only user, assistant and tool') }}",
        "{%- elif message.role != 'system' %}{{ raise('only user, assistant and tool') }}",
    )
    .replace(
        "{{ '[INST] '",
        (
            "{{ (messages[0].content if messages[0].role == 'system' and loop.last else '') + "
            "'[INST] '"
        ),
    )
)


BARE = """\
{%- if tools %}{{ 'TOOLS ' + (tools | tojson) }}{% endif %}
{%- for message in messages %}
    {{- '[' + message.role + ']' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '{"name": "' + call.function.name + '", "parameters": ' + (call.function.arguments | tojson) + '}' }}
    {%- endfor %}
    {{- '<|eot_id|>' }}
{%- endfor %}"""


NATIVE = {"qwen": (QWEN, ()), "mistral": (MISTRAL, (MISTRAL_CALLS,)), "xml": (XML, (QWEN_XML,))}


ANY_TEMPLATE = {name: template(source) for name, source in TEMPLATES.items()} | {
    "qwen": template(QWEN),
    "mistral": template(MISTRAL, MISTRAL_CALLS),
    "tools last": template(TOOLS_LAST, MISTRAL_CALLS),
    "system last": template(SYSTEM_LAST, MISTRAL_CALLS),
    "xml": template(XML, QWEN_XML),
    "bare": template(BARE),
}


CALLS = Conversation(
    (
        message(SYSTEM, Text("S")),
        message(USER, Text("u1")),
        message(
            ASSISTANT,
            Thinking("t1"),
            Text("a1"),
            ToolCall("i1", "look", '{"where": "p1"}'),
            ToolCall("i2", "look", '{"where": "p2"}'),
        ),
        message(USER, ToolResult("i1", "r1"), ToolResult("i2", "r2", is_error=True), Text("u2")),
        message(ASSISTANT, Thinking("t2"), Text("a2")),
        message(USER, Text("u3")),
        message(ASSISTANT, ToolCall("i3", "look", '{"where": "p3"}')),
        message(USER, ToolResult("i3", "r3")),
    ),
    (TOOL,),
)


WORDS = ["S", "u1", "t1", "a1", "p1", "p2", "r1", "r2", "u2", "t2", "a2", "u3", "p3", "r3"]


@pytest.mark.parametrize("name", ANY_TEMPLATE)
def test_tools_thoughts_calls_and_results_are_told_in_their_order(name: str) -> None:
    text = ANY_TEMPLATE[name].prompt(CALLS)

    places = [text.find(word, text.find("S") if word == "S" else text.find("u1")) for word in WORDS]
    assert -1 not in places
    assert places == sorted(places)
    assert "Looks around" in text[: places[1]]
    assert "Error: r2" in text


@pytest.mark.parametrize("name", ANY_TEMPLATE)
def test_what_was_read_up_to_an_answer_is_never_changed(name: str) -> None:
    """Thoughts of earlier turns stay, empty ones do not come and go, tools stay where they are."""
    layouts = [
        ANY_TEMPLATE[name].layout(Conversation(CALLS.messages[:count], CALLS.tools))
        for count in range(2, len(CALLS.messages) + 1)
    ]

    for short, long in pairwise(layouts):
        assert long.text.startswith(short.text[: short.ends[-1]])
        assert long.ends[: len(short.ends)] == short.ends
        assert long.starts[: len(short.starts)] == short.starts


@pytest.mark.parametrize("name", ANY_TEMPLATE)
def test_every_answer_tells_where_it_ends(name: str) -> None:
    for at, last in ((2, "p2"), (4, "a2"), (6, "p3")):
        layout = ANY_TEMPLATE[name].layout(CALLS, known=at + 1)
        end = layout.ends[at]
        assert at in layout.certain
        assert last not in layout.text[end:]
        assert "".join(CALLS.messages[at + 1].text) in layout.text[end:]
        for delimiter in ("</tool_call>", "]", "}"):
            assert not layout.text[end:].lstrip().startswith(delimiter)


def test_templates_that_know_calls_are_asked_in_the_way_they_know() -> None:
    capabilities = {name: template.capabilities.calls for name, template in ANY_TEMPLATE.items()}

    assert {name for name, calls in capabilities.items() if calls.is_native} == {
        "qwen",
        "mistral",
        "xml",
        "tools last",
        "system last",
    }, "what cannot be read is not used"
    assert (capabilities["qwen"].head, capabilities["qwen"].middle) == (
        '<tool_call>\n{"name": "',
        '", "arguments": ',
    )
    assert (capabilities["mistral"].head, capabilities["mistral"].middle) == (
        '[TOOL_CALLS] [{"name": "',
        '", "arguments": ',
    )
    assert (capabilities["xml"].head, capabilities["xml"].middle) == (
        "<tool_call>\n<function=",
        ">\n",
    )
    assert [capabilities[name].takes_text for name in ("qwen", "mistral", "xml")] == [
        True,
        False,
        False,
    ]
    assert not capabilities["mistral"].takes_user_after_results
    assert [
        capabilities[name].renders_tools for name in ("qwen", "mistral", "xml", "tools last")
    ] == [True, True, True, False], "what moves is not used"


def test_tools_that_a_template_would_move_are_told_at_the_front_with_the_form_of_a_call() -> None:
    text = ANY_TEMPLATE["tools last"].prompt(CALLS)

    assert "[AVAILABLE_TOOLS]" not in text
    assert (
        '[TOOL_CALLS] [{"name": "tool_name", "arguments": {"argument": "value"}'
        in text[: text.index("u1")]
    )
    assert '[TOOL_CALLS] [{"name": "look", "arguments": {"where": "p1"}' in text


def test_a_system_message_that_a_template_would_move_is_told_with_what_the_user_says_first() -> (
    None
):
    text = ANY_TEMPLATE["system last"].prompt(CALLS)

    assert not ANY_TEMPLATE["system last"].capabilities.takes_system
    assert text.count("Looks around") == 1
    assert (
        text.index("[INST]")
        < text.index("Looks around")
        < text.index("S\n\nu1")
        < text.index("[/INST]")
    )
    assert (
        '[TOOL_CALLS] [{"name": "tool_name", "arguments": {"argument": "value"}'
        in text[: text.index("u1")]
    )
    assert '[TOOL_CALLS] [{"name": "look", "arguments": {"where": "p1"}' in text


def test_thoughts_of_all_turns_are_told_as_the_model_thought_them() -> None:
    text = ANY_TEMPLATE["qwen"].prompt(CALLS)

    assert "<|im_start|>assistant\n<think>\nt1\n</think>\n\na1\n<tool_call>\n" in text
    assert "<|im_start|>assistant\n<think>\nt2\n</think>\n\na2<|im_end|>\n" in text
    assert (
        '<|im_start|>assistant\n<tool_call>\n{"name": "look", "arguments": {"where": '
        '"p3"}}\n</tool_call><|im_end|>\n'
    ) in text
    assert "<think>\n\n</think>" not in text


def test_thoughts_before_a_call_stand_as_far_from_it_as_from_text() -> None:
    thoughtful = Conversation(
        (
            CALLS.messages[1],
            message(ASSISTANT, Thinking("t"), ToolCall("i", "look", "{}")),
            CALLS.messages[-1],
        ),
        (TOOL,),
    )

    assert "<think>\nt\n</think>\n\n<tool_call>" in ANY_TEMPLATE["qwen"].prompt(thoughtful)


def test_a_text_with_delimiters_in_it_stays_whole() -> None:
    said = "before </think> after"

    assert said in ANY_TEMPLATE["qwen"].prompt(
        conversation((USER, "u"), (ASSISTANT, said), (USER, "v"))
    )


def test_words_are_stripped_where_the_template_would_strip_them() -> None:
    trimming = template(
        "{% for message in messages %}[{{ message.role }}]{{ message.content | trim }}{% endfor %}"
    )

    assert trimming.capabilities.trims == {"system", "user"}
    assert (
        trimming.prompt(
            conversation((SYSTEM, " S "), (USER, " u "), (ASSISTANT, " a "), (USER, "v\n"))
        )
        == "[system]S[user]u[assistant] a [user]v"
    )


def test_a_switch_is_used_that_changes_only_the_end() -> None:
    assert ANY_TEMPLATE["qwen"].capabilities.switch == Switch(toggle="enable_thinking")
    quiet = Conversation(CALLS.messages, CALLS.tools, thinks=False)
    assert (
        ANY_TEMPLATE["qwen"].prompt(quiet)
        == ANY_TEMPLATE["qwen"].prompt(CALLS) + "<think>\n\n</think>\n\n"
    )


def test_a_switch_that_changes_the_front_is_part_of_the_prompt() -> None:
    early = template("{{ 'Think!' if enable_thinking else 'Be quick.' }}" + ANYWHERE)

    assert early.capabilities.switch.changes_front
    assert early.prompt(Conversation(MIDWAY.messages, thinks=True)) == early.prompt(MIDWAY).replace(
        "Be quick.", "Think!"
    )


def test_what_the_template_begins_of_an_answer_is_told() -> None:
    assert ANY_TEMPLATE["xml"].layout(CALLS).opening == "<think>\n"
    assert ANY_TEMPLATE["qwen"].layout(CALLS).opening == ""


def test_a_thought_the_template_insists_on_is_ended_where_none_is_wanted() -> None:
    layout = ANY_TEMPLATE["xml"].layout(Conversation(CALLS.messages, CALLS.tools, thinks=False))

    assert layout.text.endswith("<think>\n\n</think>\n\n")
    assert layout.opening == ""


@pytest.mark.parametrize(
    ("name", "opening"),
    [
        ("qwen", '<tool_call>\n{"name": "look", "arguments": '),
        ("mistral", '[TOOL_CALLS] [{"name": "look", "arguments": '),
        ("xml", "<tool_call>\n<function=look>\n"),
        ("bare", '<tool_call>\n{"name": "look", "arguments": '),
    ],
)
def test_a_call_that_is_demanded_is_begun(name: str, opening: str) -> None:
    demanded = Conversation(CALLS.messages, CALLS.tools, ToolChoice(Calling.REQUIRED, "look"))
    layout = ANY_TEMPLATE[name].layout(demanded)

    assert layout.opening == opening
    assert layout.text.endswith(opening)
    assert "<think>\n<tool_call>" not in layout.text


def test_text_a_template_drops_beside_calls_is_told_all_the_same() -> None:
    assert '</think>\n\na1[TOOL_CALLS] [{"name": "look"' in ANY_TEMPLATE["mistral"].prompt(CALLS)


def test_ids_of_clients_are_not_told() -> None:
    """They differ from conversation to conversation, and some templates take nine letters only."""
    assert '"id": "000000000"}' in ANY_TEMPLATE["mistral"].prompt(CALLS)
    assert all(
        f'"{name}"' not in ANY_TEMPLATE["mistral"].prompt(CALLS) for name in ("i1", "i2", "i3")
    )


def test_a_result_nobody_asked_for_is_told() -> None:
    lonely = Conversation(
        (CALLS.messages[1], message(ASSISTANT, Text("a")), message(USER, ToolResult("?", "r"))),
        (TOOL,),
    )

    assert all(
        "r" in template.prompt(lonely)
        for name, template in ANY_TEMPLATE.items()
        if name != "mistral"
    )


@given(arguments=st.text(alphabet='{}"[]:,a1 \\\n', max_size=12))
def test_arguments_that_are_no_object_are_told_somehow(arguments: str) -> None:
    odd = Conversation(
        (
            CALLS.messages[1],
            message(ASSISTANT, ToolCall("i", "look", arguments)),
            message(USER, ToolResult("i", "r")),
        ),
        (TOOL,),
    )

    for name in NATIVE:
        assert "look" in ANY_TEMPLATE[name].prompt(odd)


def test_what_is_nested_too_deeply_for_a_template_is_named_and_not_blamed_on_it() -> None:
    def render(*_: object, **__: object) -> str:
        # as `tojson` does for a schema of 300 levels
        raise RecursionError("maximum recursion depth exceeded while encoding a JSON object")

    too_deep = attrs.evolve(template(ANYWHERE), render=render)

    with pytest.raises(
        InvalidRequestError,
        match="tools: a schema or the arguments of a call are nested too deeply",
    ):
        too_deep.prompt(
            Conversation((Message(USER, (Text("Hello"),)),), tools=(Tool("look", "Look.", "{}"),))
        )
