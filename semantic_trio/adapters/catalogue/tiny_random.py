"""A small random model for tests of protocols and load: fast, deterministic, its answers are
nonsense.

Its text is varied (random words, half characters), it almost never ends by itself, and every word
depends on all that came before.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from semantic_trio.adapters.catalogue.progress import Progress

Weights = dict[str, npt.NDArray[np.float32]]

SEED = 7
LAYERS, HIDDEN, FEED_FORWARD, HEADS, KV_HEADS = 4, 64, 128, 4, 2
CONTEXT = 131_072
# The spread of the layers' weights against the usual one. At 1 the tied embedding wins and the
# model repeats its last word for ever.
GAIN = 2.0

CONFIG: dict[str, object] = {
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "num_hidden_layers": LAYERS,
    "intermediate_size": FEED_FORWARD,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": CONTEXT,
    "rope_theta": 1e6,
    "tie_word_embeddings": True,
}

# ChatML whose front never changes because of what follows: tools come first, in a system message of
# their own; system messages stay where they stand; thinking of earlier turns is kept;
# `enable_thinking` changes only the very end of the prompt, to what the next turn's history
# repeats.
CHAT_TEMPLATE = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou may call these functions:\\n<tools>' }}
    {%- for tool in tools %}{{ '\\n' + (tool | tojson) }}{% endfor %}
    {{- '\\n</tools>\\nTo call one, answer with <tool_call>\\n{"name": ..., "arguments": {...}}\\n</tool_call><|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' }}
    {%- set thinking = message.reasoning_content or message.thinking %}
    {%- if thinking %}{{ '<think>\\n' + thinking + '\\n</think>\\n\\n' }}{% endif %}
    {%- if message.role == 'tool' %}
        {{- '<tool_response>\\n' + (message.content or '') + '\\n</tool_response>' }}
    {%- else %}
        {{- message.content or '' }}
    {%- endif %}
    {%- for call in message.tool_calls or [] %}
        {%- set function = call.function or call %}
        {%- set arguments = function.arguments if function.arguments is string else function.arguments | tojson %}
        {{- '\\n' if message.content or not loop.first }}
        {{- '<tool_call>\\n{"name": ' + (function.name | tojson) + ', "arguments": ' + arguments + '}\\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' + ('<think>\\n' if enable_thinking else '') }}
{%- endif %}"""


@attrs.frozen
class TinyRandom:
    """Random weights under another model's tokenizer."""

    # a finished directory to take the tokenizer from, fetched if need be
    tokenizer_source: Callable[[Progress], Path]
    name: str = "tiny-random"
    version: str = "1"
    about: str = (
        "random weights, context 131072, thinking and tools in its template: for tests of "
        "protocols and load"
    )

    def build(self, into: Path, progress: Progress) -> None:
        """See `Recipe.build`."""
        source = self.tokenizer_source(progress)
        progress.step(f"building {self.name}")
        theirs = json.loads((source / "config.json").read_text())
        tokenizer = json.loads((source / "tokenizer_config.json").read_text())
        shared = {
            key: theirs[key]
            for key in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")
        }
        save_file(
            random_weights(theirs["vocab_size"]), into / "model.safetensors", {"format": "mlx"}
        )
        shutil.copyfile(source / "tokenizer.json", into / "tokenizer.json")
        _write(into / "config.json", CONFIG | shared)
        _write(
            into / "tokenizer_config.json",
            tokenizer | {"chat_template": CHAT_TEMPLATE, "model_max_length": CONTEXT},
        )
        (into / "README.md").write_text(
            f"Random weights (seed {SEED}) with the tokenizer of SmolLM2 by Hugging Face, "
            "Apache-2.0.\n"
        )

    def tidy(self) -> None:
        """See `Recipe.tidy`."""


def random_weights(vocab_size: int) -> Weights:
    """The model's weights, the same on every machine."""
    # The legacy generator on purpose: numpy promises that its streams never change.
    generator = np.random.RandomState(SEED)

    def drawn(rows: int, columns: int, spread: float) -> npt.NDArray[np.float32]:
        return (generator.standard_normal((rows, columns)) * spread).astype(np.float32)

    weights: Weights = {
        "model.embed_tokens.weight": drawn(vocab_size, HIDDEN, 1.0),
        "model.norm.weight": np.ones(HIDDEN, np.float32),
    }
    for layer in range(LAYERS):
        for name, (rows, columns) in _matrices().items():
            weights[f"model.layers.{layer}.{name}.weight"] = drawn(
                rows, columns, GAIN / columns**0.5
            )
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = np.ones(HIDDEN, np.float32)
    return weights


def _matrices() -> dict[str, tuple[int, int]]:
    kv = HIDDEN // HEADS * KV_HEADS
    attention = {
        "q_proj": (HIDDEN, HIDDEN),
        "k_proj": (kv, HIDDEN),
        "v_proj": (kv, HIDDEN),
        "o_proj": (HIDDEN, HIDDEN),
    }
    feed_forward = {
        "gate_proj": (FEED_FORWARD, HIDDEN),
        "up_proj": (FEED_FORWARD, HIDDEN),
        "down_proj": (HIDDEN, FEED_FORWARD),
    }
    return {f"self_attn.{name}": shape for name, shape in attention.items()} | {
        f"mlp.{name}": shape for name, shape in feed_forward.items()
    }


def _write(path: Path, content: dict[str, object]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
