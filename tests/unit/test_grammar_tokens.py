"""Demanded calls of models whose delimiters are tokens: the tokens are written, not their
letters.
"""

import json
import random
from pathlib import Path

import jsonschema
import pytest
from tokenizers import AddedToken

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Role,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from tests.call_templates import TEMPLATES
from tests.vocabulary import byte_tokenizer, write_model

TOKENS = {
    "kimi_k3": ("<|open|>", "<|close|>", "<|sep|>"),
    "gemma4": ("<|tool_call>", "<tool_call|>", '<|"|>'),
    "glm": (
        "<tool_call>",
        "</tool_call>",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    ),
    "qwen_xml": ("<tool_call>", "</tool_call>"),
    "kimi_k2": (
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_end|>",
        "<|tool_call_begin|>",
        "<|tool_call_argument_begin|>",
        "<|tool_call_end|>",
    ),
    "mistral heads": ("[TOOL_CALLS]", "[ARGS]"),
    "dsml_tool_calls": ("｜DSML｜",),
}
SCHEMA = {
    "type": "object",
    "properties": {
        "path": {"type": "string", "maxLength": 9},
        "lines": {"type": "integer", "maximum": 9, "minimum": 0},
        "force": {"type": "boolean"},
    },
    "required": ["path", "lines"],
}
ASKED = Conversation(
    (Message(Role.USER, (Text("go"),)),),
    (Tool("write_file", "", json.dumps(SCHEMA)),),
    ToolChoice(Calling.REQUIRED, is_single=True),
)


def codec(name: str, directory: Path, *, is_special: bool) -> TokenizerCodec:
    tokenizer = byte_tokenizer()
    tokens = [AddedToken(token, special=is_special, normalized=False) for token in TOKENS[name]]
    if is_special:
        tokenizer.add_special_tokens(tokens)
    else:
        tokenizer.add_tokens(tokens)
    return load_codec(write_model(directory, tokenizer=tokenizer, chat_template=TEMPLATES[name]))


@pytest.mark.parametrize("is_special", [True, False])
@pytest.mark.parametrize("name", TOKENS)
def test_a_demanded_call_is_written_in_tokens_and_read_back(
    name: str, is_special: bool, tmp_path: Path
) -> None:
    made = codec(name, tmp_path, is_special=is_special)
    prompt = made.encode_prompt(ASKED)
    grammar = made.grammar(ASKED, prompt.opening)
    assert grammar is not None
    for seed in range(5):
        state, dice, decoder, reader, parts = (
            grammar.start(),
            random.Random(seed),
            made.decoder(),
            made.reader(ASKED, prompt.opening),
            [],
        )
        for _ in range(3000):
            mask = state.allowed()
            allowed = [token for token in range(len(mask) * 8) if mask[token // 8] >> token % 8 & 1]
            if made.stop_tokens & {*allowed}:
                break
            # Delimiters that are tokens come as soon as they may: a text then ends.
            token = dice.choice([one for one in allowed if one > 257] or allowed)
            state.take(token)
            parts += reader.push(decoder.push(token))
        parts += reader.push(decoder.flush()) + reader.finish()
        [call] = [part for part in parts if isinstance(part, ToolCall)]
        jsonschema.validate(json.loads(call.arguments), SCHEMA)
