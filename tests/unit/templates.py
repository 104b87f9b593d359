"""Chat templates for tests."""

import json
from collections.abc import Sequence

from jinja2 import Environment
from jinja2.exceptions import TemplateError

from semantic_trio.adapters.text.capabilities import probe
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.generic import Definition
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.adapters.text.turns import NO_SWITCHES, Switches, Turn
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Tool,
)

# What the templates of well-known families do with roles, and nothing else of them.
TURN = "{{ '[' + message.role + ']' + message.content }}"


ANYWHERE = "{% for message in messages %}" + TURN + "{% endfor %}"


FIRST_ONLY = (
    "{% for message in messages %}{% if message.role == 'system' and not loop.first %}{{ "
    "raise('System message must be at the beginning.') }}"
    "{% endif %}" + TURN + "{% endfor %}"
)


SILENTLY_DROPPED = (
    "{% for message in messages %}{% if message.role != 'system' or loop.first %}"
    + TURN
    + "{% endif %}{% endfor %}"
)


HOISTED = (
    "{% for message in messages if message.role == 'system' %}" + TURN + "{% endfor %}"
    "{% for message in messages if message.role != 'system' %}" + TURN + "{% endfor %}"
)


ALTERNATING = (  # as Gemma: no system role of its own, speakers take turns
    (
        "{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) "
        "%}{{ raise('roles must alternate') }}{% endif %}"
    )
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


def template(source: str, *syntaxes: ToolSyntax) -> ChatTemplate:
    environment = Environment(autoescape=False, trim_blocks=True, lstrip_blocks=True)
    environment.globals["raise"] = _refuse
    environment.filters["tojson"] = json.dumps
    compiled = environment.from_string(source)

    def render(
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        return compiled.render(
            messages=turns, tools=list(tools) or None, add_generation_prompt=speak, **switches
        )

    return ChatTemplate(
        render,
        ThoughtDelimiters(),
        probe(render, ThoughtDelimiters(), (HERMES, *syntaxes)),
        syntaxes,
    )


def _refuse(reason: str) -> None:
    raise TemplateError(reason)


def conversation(*said: tuple[Role, str]) -> Conversation:
    return Conversation(tuple(Message(role, (Text(text),)) for role, text in said))


MIDWAY = conversation(
    (SYSTEM, "S"), (USER, "u1"), (SYSTEM, "M"), (ASSISTANT, "a1"), (USER, "u2"), (SYSTEM, "N")
)


# With the quirks of well-known families, and as little else of them as can be.
QWEN = """\
{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + '\n\n' }}{% endif %}
    {{- '<tools>' }}{% for tool in tools %}{{ '\n' + (tool | tojson) }}{% endfor %}{{ '\n</tools>\nCall as <tool_call></tool_call>.<|im_end|>\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(last=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' %}
        {{- '<|im_start|>user\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'system' and not loop.first %}
        {{- raise('System message must be at the beginning.') }}
    {%- elif message.role == 'assistant' %}
        {%- set said = message.content.split('</think>')[-1].lstrip('\n') %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.last %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
        {{- said }}
        {%- for call in message.tool_calls or [] %}
            {%- if (loop.first and said) or not loop.first %}{{ '\n' }}{% endif %}
            {{- '<tool_call>\n{"name": "' + call.function.name + '", "arguments": ' }}
            {{- call.function.arguments if call.function.arguments is string else call.function.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}"""


TOOL = Tool(
    "look", "Looks around", '{"type": "object", "properties": {"where": {"type": "string"}}}'
)


def message(role: Role, *parts: Part) -> Message:
    return Message(role, parts)
