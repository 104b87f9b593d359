"""Chat templates that write calls as the models of each format do: the published shapes and
delimiters, and as little else as can be.
"""

FRAME = """\
{%- if tools %}{{ '[system]' + (tools | tojson) + '<end>' }}{% endif %}
{%- for message in messages %}
    {{- '[' + message.role + ']' + message.content }}
    {%- if message.tool_calls %}CALLS{% endif %}
    {{- '<end>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '[assistant]' }}{% endif %}"""
TEXT = (
    "(call.function.arguments if call.function.arguments is string else call.function.arguments | "
    "tojson)"
)
VALUE = "(value if value is string else value | tojson)"


def _template(calls: str) -> str:
    return FRAME.replace("CALLS", calls)


def _each(before: str, call: str, between: str, after: str) -> str:
    """Calls one after the other."""
    many = (
        f"{{% for call in message.tool_calls %}}{call}{{% if not loop.last %}}{between}{{% endif "
        f"%}}{{% endfor %}}"
    )
    return _template(before + many + after)


def _tagged(before: str, argument: str, after: str) -> str:
    """A call whose arguments stand one by one."""
    return (
        f"{before}{{% for name, value in call.function.arguments.items() %}}{argument}{{% endfor "
        f"%}}{after}"
    )


NAMED = "{{ call.function.name }}"
DSML = "｜DSML｜"
DSML_CALL = _tagged(
    f'<{DSML}invoke name="{NAMED}">{{{{ "\\n" }}}}',
    f'<{DSML}parameter name="{{{{ name }}}}" string="{{{{ "true" if value is string else "false" '
    f'}}}}">'
    f'{{{{ {VALUE} }}}}</{DSML}parameter>{{{{ "\\n" }}}}',
    f"</{DSML}invoke>{{{{ '\\n' }}}}",
)
OBJECT = '{"name": "' + NAMED + '", "arguments": {{ ' + TEXT + " }}}"
GLM_CALL = (
    f"{NAMED}{{{{ '\\n' }}}}",
    (
        f"<arg_key>{{{{ name }}}}</arg_key>{{{{ '\\n' }}}}<arg_value>{{{{ {VALUE} "
        f"}}}}</arg_value>{{{{ '\\n' }}}}"
    ),
)
XML_CALL = _tagged(
    f"<function={NAMED}>{{{{ '\\n' }}}}",
    "{{ '<parameter=' + name + '>\\n' }}{{ value | tojson if value is mapping or (value is "
    "sequence and value is not string) else value | string }}"
    "{{ '\\n</parameter>\\n' }}",
    "{{ '</function>\\n' }}",
)

PYTHON_CALL = NAMED + (
    "({% for name, value in call.function.arguments.items() %}{{ name }}={{ value | tojson "
    "}}{% if not loop.last %}, {% endif %}{% endfor %})"
)
GEMMA_VALUE = (
    "{%- macro told(value) %}{% if value is string %}{{ '<|\"|>' + value + '<|\"|>' }}"
    "{% elif value is mapping %}{{ '{' }}"
    "{% for name, inner in value.items() %}{{ name + ':' + told(inner) }}{{ '' if loop.last else "
    "',' }}{% endfor %}{{ '}' }}"
    "{% elif value is sequence %}{{ '[' }}{% for inner in value %}{{ told(inner) }}{{ '' if "
    "loop.last else ',' }}{% endfor %}{{ ']' }}"
    "{% else %}{{ value | tojson }}{% endif %}{% endmacro -%}"
)
GEMMA_CALL = GEMMA_VALUE + "call:" + NAMED + "{{ told(call.function.arguments) }}"
K3_CALL = _tagged(
    '<|open|>call tool="' + NAMED + '" index="{{ loop.index }}"<|sep|>',
    (
        '<|open|>argument key="{{ name }}" type="{{ "string" if value is string else "object" '
        '}}"<|sep|>{{ '
    )
    + VALUE
    + " }}<|close|>argument<|sep|>",
    "<|close|>call<|sep|>",
)

TEMPLATES = {
    "hermes": _each(
        "", "{{ '<tool_call>\\n' }}" + OBJECT + "{{ '\\n</tool_call>' }}", "{{ '\\n' }}", ""
    ),
    "qwen_xml": _each("", "{{ '<tool_call>\\n' }}" + XML_CALL + "</tool_call>", "{{ '\\n' }}", ""),
    "seed": _each(
        "",
        "{{ '<seed:tool_call>\\n' }}"
        + _tagged(
            f"<function={NAMED}>{{{{ '\\n' }}}}",
            f"<parameter={{{{ name }}}}>{{{{ {VALUE} }}}}</parameter>{{{{ '\\n' }}}}",
            "{{ '</function>\\n' }}",
        )
        + "</seed:tool_call>",
        "{{ '\\n' }}",
        "",
    ),
    "glm": _each(
        "", _tagged("<tool_call>" + GLM_CALL[0], GLM_CALL[1], "</tool_call>"), "{{ '\\n' }}", ""
    ),
    "hy3": _each(
        "{{ '<tool_calls:opensource>\\n' }}",
        _tagged(
            f"<tool_call:opensource>{NAMED}<tool_sep:opensource>{{{{ '\\n' }}}}",
            (
                "<arg_key:opensource>{{ name }}</arg_key:opensource>{{ '\\n' "
                "}}<arg_value:opensource>{{ "
            )
            + VALUE
            + " }}</arg_value:opensource>{{ '\\n' }}",
            "{{ '</tool_call:opensource>\\n' }}",
        ),
        "",
        "</tool_calls:opensource>",
    ),
    "longcat": _each(
        "",
        _tagged(
            "<longcat_tool_call>" + GLM_CALL[0],
            GLM_CALL[1].replace("arg_", "longcat_arg_"),
            "</longcat_tool_call>",
        ),
        "{{ '\\n' }}",
        "",
    ),
    "minimax": _each(
        "{{ '<minimax:tool_call>\\n' }}",
        _tagged(
            f'<invoke name="{NAMED}">{{{{ "\\n" }}}}',
            f'<parameter name="{{{{ name }}}}">{{{{ {VALUE} }}}}</parameter>{{{{ "\\n" }}}}',
            "{{ '</invoke>\\n' }}",
        ),
        "",
        "</minimax:tool_call>",
    ),
    "muse_spark": _each(
        "{{ '<atem:function_calls>\\n' }}",
        _tagged(
            f'<atem:invoke name="{NAMED}">{{{{ "\\n" }}}}',
            (
                f'<atem:parameter name="{{{{ name }}}}">{{{{ {VALUE} }}}}</atem:parameter>{{{{ '
                f'"\\n" }}}}'
            ),
            "{{ '</atem:invoke>\\n' }}",
        ),
        "",
        "</atem:function_calls>",
    ),
    "minicpm5": _each(
        "",
        _tagged(
            f'<function name="{NAMED}">',
            '<param name="{{ name }}">{% if value is string and ("<" in value or "&" in value or '
            '"\\n" in value) %}<![CDATA[{{ value }}]]>'
            f"{{% else %}}{{{{ {VALUE} }}}}{{% endif %}}</param>",
            "</function>",
        ),
        "{{ '\\n' }}",
        "",
    ),
    "dsml_function_calls": _each(
        f"<{DSML}function_calls>{{{{ '\\n' }}}}", DSML_CALL, "", f"</{DSML}function_calls>"
    ),
    "dsml_tool_calls": _each(
        f"<{DSML}tool_calls>{{{{ '\\n' }}}}", DSML_CALL, "", f"</{DSML}tool_calls>"
    ),
    "mistral": _each("[TOOL_CALLS] [", OBJECT[:-1] + ', "id": "{{ call.id }}"}', ", ", "]"),
    "mistral heads": _each("", "[TOOL_CALLS]" + NAMED + "[ARGS]{{ " + TEXT + " }}", "", ""),
    "mistral ids": _each(
        "", "[TOOL_CALLS]" + NAMED + "[CALL_ID]{{ call.id }}[ARGS]{{ " + TEXT + " }}", "", ""
    ),
    "deepseek v3": _each(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>{{ call.type }}<｜tool▁sep｜>"
        + NAMED
        + "{{ '\\n```json\\n' + "
        + TEXT
        + " + '\\n```' }}<｜tool▁call▁end｜>",
        "{{ '\\n' }}",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek v3.1": _each(
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁call▁begin｜>" + NAMED + "<｜tool▁sep｜>{{ " + TEXT + " }}<｜tool▁call▁end｜>",
        "",
        "<｜tool▁calls▁end｜>",
    ),
    "kimi_k2": _each(
        "<|tool_calls_section_begin|>",
        "<|tool_call_begin|>{{ call.id }}<|tool_call_argument_begin|>{{ "
        + TEXT
        + " }}<|tool_call_end|>",
        "",
        "<|tool_calls_section_end|>",
    ),
    "hunyuan": _each(
        "<tool_calls>",
        "<tool_call>function<tool_sep>"
        + NAMED
        + "{{ '\\n```json\\n' + "
        + TEXT
        + " + '\\n```' }}</tool_call>",
        "{{ '\\n' }}",
        "</tool_calls>",
    ),
    "granite": _each("<|tool_call|>[", OBJECT, ", ", "]"),
    "phi4": _each("<|tool_call|>[", OBJECT, ", ", "]<|/tool_call|>"),
    "cohere": _each(
        "{{ '<|START_ACTION|>[\\n    ' }}",
        '{"tool_call_id": "{{ loop.index0 }}", "tool_name": "'
        + NAMED
        + '", "parameters": {{ '
        + TEXT
        + " }}}",
        "{{ ',\\n    ' }}",
        "{{ '\\n]<|END_ACTION|>' }}",
    ),
    "apertus": _each(
        "<|tools_prefix|>[", '{"' + NAMED + '": {{ ' + TEXT + " }}}", ", ", "]<|tools_suffix|>"
    ),
    "nemotron": _each("<TOOLCALL>[", OBJECT, ", ", "]</TOOLCALL>"),
    "lfm2": _each("<|tool_call_start|>[", PYTHON_CALL, ", ", "]<|tool_call_end|>"),
    "llama4": _each("<|python_start|>[", PYTHON_CALL, ", ", "]<|python_end|>"),
    "gemma4": _each("", "<|tool_call>" + GEMMA_CALL + "<tool_call|>", "", ""),
    "function_gemma": _each(
        "",
        "<start_function_call>" + GEMMA_CALL.replace('<|"|>', "<escape>") + "<end_function_call>",
        "",
        "",
    ),
    "kimi_k3": _each("<|open|>tools<|sep|>", K3_CALL, "", "<|close|>tools<|sep|>"),
    "kimi_k3_json": _each(
        "<|open|>tools<|sep|>",
        '<|open|>call tool="'
        + NAMED
        + '" index="{{ loop.index }}"<|sep|><|open|>json type="object"<|sep|>{{ '
        + TEXT
        + " }}"
        "<|close|>json<|sep|><|close|>call<|sep|>",
        "",
        "<|close|>tools<|sep|>",
    ),
    "gigachat": _each(
        "", "{{ '<|message_sep|>\\n\\nfunction call<|role_sep|>\\n' }}" + OBJECT, "", ""
    ),
    "llama": _each(
        "{#- <|python_tag|> #}",
        '{"name": "' + NAMED + '", "parameters": {{ ' + TEXT + " }}}",
        "; ",
        "",
    ),
}
