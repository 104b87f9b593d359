"""Calls as JSON between `<tool_call>` delimiters, as Hermes and Qwen write them and most models
have seen them.
"""

from semantic_trio.adapters.text.formats.json_calls import JsonCalls

HERMES = JsonCalls("hermes", "<tool_call>", "</tool_call>", fronts=("{",))
