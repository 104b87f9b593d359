"""Memory of reference models, calculated from their published geometry: nothing of it is
measured.
"""

import attrs

from semantic_trio.domain.families import published_spec
from semantic_trio.domain.geometry import ModelCacheSpec
from semantic_trio.entrypoints.bench.results import Rows, Spread

REFERENCE = "reference models, calculated"
BUDGET_BYTES = 14 * 10**9  # of model and pool together: what a machine of 24 GB has left for them
CONTEXTS = (4096, 8192)
# Rows of different lengths in one batch: a padded batch gives each of them as much as the longest.
BATCH = tuple(range(1024, 8193, 1024))
KV_BITS = (16, 8)


@attrs.frozen
class Reference:
    """A model by what its config.json says of its caches, and the bytes of its weights at about 4
    bits.
    """

    name: str
    # parameters x 4.5 bits (groups of 64 with scale and bias), those of GPT-OSS's experts x 4.25
    weight_bytes: int
    config: dict[str, object]

    def spec(self, kv_bits: int) -> ModelCacheSpec:
        """Return the layers of its KV cache with so many bits for a key or value."""
        found = published_spec(self.config, "", 16, kv_bits)
        assert found is not None, "each family here has an extractor"
        return found


MODELS = (
    Reference(
        "Gemma 3 12B",
        6_620_000_000,
        {
            "model_type": "gemma3",
            "text_config": {
                "model_type": "gemma3_text",
                "hidden_size": 3840,
                "num_attention_heads": 16,
                "num_hidden_layers": 48,
                "num_key_value_heads": 8,
                "sliding_window": 1024,
            },
        },
    ),
    Reference(
        "GPT-OSS-20B",
        11_160_000_000,
        {
            "model_type": "gpt_oss",
            "head_dim": 64,
            "hidden_size": 2880,
            "num_attention_heads": 64,
            "num_hidden_layers": 24,
            "num_key_value_heads": 8,
            "sliding_window": 128,
        },
    ),
    Reference(
        "Qwen 2.5-14B",
        8_310_000_000,
        {
            "model_type": "qwen2",
            "hidden_size": 5120,
            "num_attention_heads": 40,
            "num_hidden_layers": 48,
            "num_key_value_heads": 8,
        },
    ),
    Reference(
        "Llama 3.1-8B",
        4_520_000_000,
        {
            "model_type": "llama",
            "hidden_size": 4096,
            "num_attention_heads": 32,
            "num_hidden_layers": 32,
            "num_key_value_heads": 8,
        },
    ),
)


def reference_rows() -> Rows:
    """Return a table of agents that fit beside each model's weights, and of what a batch takes
    beside a padded one.
    """
    return {
        f"{model.name}, {bits} bits": {
            column: Spread.of([value]) for column, value in _row(model, model.spec(bits)).items()
        }
        for model in MODELS
        for bits in KV_BITS
    }


def _row(model: Reference, spec: ModelCacheSpec) -> dict[str, float]:
    pool = BUDGET_BYTES - model.weight_bytes
    held, padded = sum(map(spec.context_bytes, BATCH)), len(BATCH) * spec.context_bytes(max(BATCH))
    agents = {
        f"agents of {tokens:,} tokens": spec.agents_that_fit(pool, tokens) for tokens in CONTEXTS
    }
    return {
        "weights, GB": model.weight_bytes / 1e9,
        "pool, GB": pool / 1e9,
        **agents,
        "blocks / padded": held / padded,
    }
