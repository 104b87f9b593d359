"""Models for coding agents that fit common machines, with the memory they take.

Knows published sizes. Knows nothing of what is on this machine.
"""

import attrs

GIB = 1 << 30


@attrs.frozen
class Suggestion:
    """A model on the Hub with a context of at least 64K tokens, and the machine it is for."""

    name: str
    machine_gib: int  # memory of the machine
    weights_gib: float
    # 16-bit keys and values of all global layers, from the published configuration
    kv_bytes_per_token: int
    context_length: int  # tokens to serve it with on that machine

    @property
    def total_gib(self) -> float:
        """Memory for the weights and one conversation of the whole context."""
        return self.weights_gib + self.kv_bytes_per_token * self.context_length / GIB

    @property
    def about(self) -> str:
        """One line for people."""
        return (
            f"for {self.machine_gib} GB: {self.total_gib:.0f} GiB with {self.context_length:,} "
            "tokens of context"
        )


# Keys and values: layers x 2 x heads x size x 2 bytes. Sliding layers of gpt-oss hold 128 positions
# and are not counted.
SUGGESTED = (
    Suggestion("mlx-community/Qwen3-4B-Instruct-2507-4bit", 8, 2.1, 36 * 2 * 8 * 128 * 2, 16_384),
    Suggestion("mlx-community/Qwen3-4B-Instruct-2507-4bit", 16, 2.1, 36 * 2 * 8 * 128 * 2, 49_152),
    Suggestion("mlx-community/gpt-oss-20b-MXFP4-Q8", 24, 11.2, 12 * 2 * 8 * 64 * 2, 131_072),
    Suggestion(
        "mlx-community/Qwen3-Coder-30B-A3B-Instruct-4bit", 32, 16.0, 48 * 2 * 4 * 128 * 2, 65_536
    ),
    Suggestion(
        "mlx-community/Qwen3-Coder-30B-A3B-Instruct-8bit", 64, 30.2, 48 * 2 * 4 * 128 * 2, 131_072
    ),
    Suggestion("mlx-community/gpt-oss-120b-MXFP4-Q8", 128, 58.9, 18 * 2 * 8 * 64 * 2, 131_072),
)
