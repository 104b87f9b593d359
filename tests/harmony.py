"""A chat template with the shape and the delimiters of gpt-oss's, written for tests, and a
tokenizer that knows them.
"""

from tokenizers import AddedToken, Tokenizer

from tests.vocabulary import byte_tokenizer

TOKENS = (
    "<|start|>",
    "<|channel|>",
    "<|message|>",
    "<|constrain|>",
    "<|end|>",
    "<|call|>",
    "<|return|>",
)
# As the published one: leading system words go to a developer message with the tools, later ones
# vanish; one call a turn; results are JSON strings.
TEMPLATE = """\
{{- '<|start|>system<|message|>You are a model.\nReasoning: ' + (reasoning_effort or 'medium') + '\n\n' }}
{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.' }}
{%- if tools %}{{ '\nCalls to these tools must go to the commentary channel: functions.' }}{% endif %}{{ '<|end|>' }}
{%- set said = messages %}{% set rules = '' %}
{%- if messages[0].role in ['system', 'developer'] %}{% set rules = messages[0].content %}{% set said = messages[1:] %}{% endif %}
{%- if rules or tools %}
    {{- '<|start|>developer<|message|>' }}
    {%- if rules %}{{ '# Instructions\n\n' + rules }}{% endif %}
    {%- if tools %}{{ '\n\n# Tools\n\n## functions\n\nnamespace functions {' }}
        {%- for tool in tools %}{{ '\n// ' + tool.function.description + '\ntype ' + tool.function.name + ' = (_: any) => any;' }}{% endfor %}
        {{- '\n} // namespace functions' }}
    {%- endif %}
    {{- '<|end|>' }}
{%- endif %}
{%- set ns = namespace(name='') %}
{%- for message in said %}
    {%- if message.role == 'user' %}{{ '<|start|>user<|message|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'assistant' and message.tool_calls %}
        {%- set call = message.tool_calls[0].function %}{% set ns.name = call.name %}
        {%- if message.content %}{{ '<|start|>assistant<|channel|>analysis<|message|>' + message.content + '<|end|>' }}{% endif %}
        {{- '<|start|>assistant to=functions.' + call.name + '<|channel|>commentary json<|message|>' + (call.arguments | tojson) + '<|call|>' }}
    {%- elif message.role == 'assistant' %}{{ '<|start|>assistant<|channel|>final<|message|>' + message.content + '<|end|>' }}
    {%- elif message.role == 'tool' %}
        {%- if not ns.name %}{{ raise_exception('a result without a call') }}{% endif %}
        {{- '<|start|>functions.' + ns.name + ' to=assistant<|channel|>commentary<|message|>' + (message.content | tojson) + '<|end|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start|>assistant' }}{% endif %}"""


def harmony_tokenizer() -> Tokenizer:
    """A token for every byte, and those of the format."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in TOKENS]
    )
    return tokenizer
