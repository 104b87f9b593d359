"""Memory for the KV cache by default."""

import pytest

from semantic_trio.adapters.mlx.budget import CPU_MB, MIB, gpu_cache_mb, usual_cache_mb

GIB = 1 << 30


@pytest.mark.parametrize(
    ("memory", "weights", "budget"),
    [(16, 4, 4), (141, 15, 35.25), (24, 16, 4), (16, 15.5, 1)],
)
def test_a_gpu_gives_a_quarter_of_its_memory_and_half_of_what_the_weights_leave(
    memory: float, weights: float, budget: float
) -> None:
    assert gpu_cache_mb(int(memory * GIB), int(weights * GIB)) == int(budget * GIB) // MIB


def test_a_cpu_gives_four_gibibytes() -> None:
    assert usual_cache_mb() == CPU_MB
