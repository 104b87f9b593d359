"""Templates that do not tell all calls: these are written in the family's own format, and read back
unchanged.
"""

import json

import attrs
import pytest

from semantic_trio.adapters.text.capabilities import probe
from semantic_trio.adapters.text.formats.table import formats
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.written_calls import calling
from semantic_trio.domain.conversation import Conversation, Message, Role, Text, Thinking, ToolCall
from tests.unit.call_readings import TOOLS, called, conversation, pieces
from tests.unit.templates import template
from tests.unit.test_call_formats import VALUES

# As Granite's and LFM2's: tools are told, calls are left out.
WITHOUT_CALLS = """\
{%- if tools %}{{ '[tools] MARKS ' + (tools | tojson) + '<end>' }}{% endif %}
{%- for message in messages %}{{ '[' + message.role + ']' + message.content + '<end>' }}{% endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
# As Llama 3's: one call a turn.
ONE_CALL = """\
{%- if tools %}{{ '[tools] "parameters" <|eot_id|> ' + (tools | tojson) + '<end>' }}{% endif %}
{%- for message in messages %}
    {%- if message.tool_calls and message.tool_calls | length != 1 %}{{ raise('one call at once') }}{% endif %}
    {%- if message.tool_calls %}{% set call = message.tool_calls[0].function %}
        {{- '[assistant]{"name": "' + call.name + '", "parameters": ' + (call.arguments | tojson) + '}<end>' }}
    {%- else %}{{ '[' + message.role + ']' + message.content + '<end>' }}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
# As Nemotron Nano 2's: the assistant's last turn begins with a thought, results stand in one list.
LAST_THINKS = """\
{{- '[system]' }}{% if tools %}{{ (tools | tojson) + ' <TOOLCALL>' }}{% endif %}{{ '\\n\\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' %}{{ '[user]' + message.content + '\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if messages[loop.index0 - 1].role != 'tool' %}{{ '[user]<TOOL_RESPONSE>[' }}{% else %}{{ ', ' }}{% endif %}
        {{- message.content }}{% if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ ']</TOOL_RESPONSE>\\n\\n' }}{% endif %}
    {%- else %}{{ '[assistant]' }}{% if loop.last %}{{ '<think>\\n\\n' }}{% endif %}{{ message.content }}
        {%- if message.tool_calls %}{{ '<TOOLCALL>[' }}{% for call in message.tool_calls %}
            {{- '{"name": "' + call.function.name + '", "arguments": ' + call.function.arguments + '}' + ('' if loop.last else ', ') }}
        {%- endfor %}{{ ']</TOOLCALL>' }}{% endif %}
        {{- '\\n[end]\\n\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]<think>\\n\\n' }}{% endif %}"""
SOURCES = {
    "llama": ONE_CALL,
    "granite": WITHOUT_CALLS.replace("MARKS", "<|tool_call|>"),
    "phi4": WITHOUT_CALLS.replace("MARKS", "<|tool_call|> <|/tool_call|>"),
    "lfm2": WITHOUT_CALLS.replace("MARKS", "<|tool_list_start|>"),
    "cohere": WITHOUT_CALLS.replace("MARKS", "<|START_ACTION|>"),
    "nemotron": WITHOUT_CALLS.replace("MARKS", "<TOOLCALL>"),
    "gigachat": WITHOUT_CALLS.replace("MARKS", "<|role_sep|> <|message_sep|>"),
    "mistral": WITHOUT_CALLS.replace("MARKS", "[TOOL_CALLS]"),
    "muse_spark": WITHOUT_CALLS.replace("MARKS", "<atem:function_calls>"),
}


def made(source: str) -> ChatTemplate:
    syntaxes = formats(source)
    plain = template(source, *syntaxes)
    render = calling(plain.render, ThoughtDelimiters(), syntaxes)
    return attrs.evolve(
        plain, render=render, capabilities=probe(render, ThoughtDelimiters(), syntaxes)
    )


ANY_TEMPLATE = {name: made(source) for name, source in SOURCES.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_a_template_that_leaves_calls_out_is_given_them_in_the_format_of_its_family(
    name: str,
) -> None:
    calls = ANY_TEMPLATE[name].capabilities.calls

    assert calls.is_native
    assert calls.renders_tools
    assert calls.syntax.format == name
    assert calls.shape is not None, "demanded calls are held in it"


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", SOURCES)
def test_calls_that_are_written_so_are_read_back_unchanged(name: str) -> None:
    asked = ANY_TEMPLATE[name].prompt(Conversation(conversation().messages[:1], TOOLS))
    for value in VALUES:
        calls = ("write_file", {"path": "a.txt", "content": value}), ("srv.look", {"where": value})
        whole = conversation(
            *(ToolCall(str(at), tool, json.dumps(given)) for at, (tool, given) in enumerate(calls))
        )
        text = ANY_TEMPLATE[name].prompt(whole)
        assert text.startswith(asked)
        answer = text[len(asked) : text.index("<end>[tool]", len(asked))]
        for size in (7, len(answer)):
            reader = DelimiterReader(
                ThoughtDelimiters(), ANY_TEMPLATE[name].syntaxes_of(Conversation((), TOOLS)), TOOLS
            )
            assert called(
                [part for piece in pieces(answer, size) for part in reader.push(piece)]
                + reader.finish()
            ) == list(calls), value[:80]


def test_one_call_is_written_as_the_template_writes_it() -> None:
    whole = conversation(ToolCall("1", "srv.look", '{"where": "here"}'))

    assert (
        '[assistant]{"name": "srv.look", "parameters": {"where": "here"}}<end>[tool]done<end>'
        in ANY_TEMPLATE["llama"].prompt(whole)
    )


def test_a_last_turn_that_is_written_otherwise_takes_no_calls_with_it() -> None:
    nano = made(LAST_THINKS)
    calls = ToolCall("1", "srv.look", '{"where": "here"}'), ToolCall("2", "srv.look", "{}")
    user, answer, results = conversation(*calls, said="I look.").messages
    told = nano.prompt(Conversation((user, answer, results), TOOLS))

    assert nano.capabilities.calls.is_native
    assert nano.capabilities.calls.renders_tools
    assert told.endswith(
        '[user]go\n[assistant]I look.<TOOLCALL>[{"name": "srv.look", "arguments": {"where": '
        '"here"}}, '
        '{"name": "srv.look", "arguments": {}}]</TOOLCALL>'
        "\n[end]\n\n[user]<TOOL_RESPONSE>[done, done]</TOOL_RESPONSE>\n\n[assistant]<think>\n\n"
    )
    later = (
        Message(Role.ASSISTANT, (Thinking("Well."), Text("It is here."))),
        Message(Role.USER, (Text("thanks"),)),
    )
    assert nano.prompt(Conversation((user, answer, results, *later), TOOLS)).startswith(
        told.removesuffix("<think>\n\n")
    )


def test_a_template_that_tells_calls_itself_is_used_as_it_is() -> None:
    plain = template(ONE_CALL.replace("raise('one call at once')", "''"), *formats(ONE_CALL))

    assert calling(plain.render, ThoughtDelimiters(), ()) is plain.render
