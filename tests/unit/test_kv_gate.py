"""The gate that few bits of keys and values have to pass can fail, for each of its bounds."""

import math
import runpy
from pathlib import Path

import pytest

GATE = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "kv_gate.py"))
WITHIN = {
    "kl": 0.001,
    "same_tokens": 0.99,
    "calls": 100,
    "same_calls": 95,
    "right_calls": 57,
    "right_before": 60,
}


def faults(**changed: float) -> list[str]:
    return list(GATE["faults"](GATE["Quality"](**WITHIN | changed)))


def test_what_is_within_all_bounds_passes() -> None:
    assert faults() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"kl": 0.02}, "KL 0.0200, at most 0.01 is allowed"),
        ({"kl": math.nan}, "KL nan, at most 0.01 is allowed"),
        (
            {"same_tokens": 0.5},
            "the likeliest token is the same at 0.500 of the positions, at least 0.97 are wanted",
        ),
        (
            {"same_calls": 94},
            "94 of 100 calls have the arguments of 16 bits, at least 0.95 are wanted",
        ),
        (
            {"right_calls": 56},
            "56 calls are right where 16 bits have 60, at least 0.95 of them are wanted",
        ),
    ],
)
def test_each_bound_that_is_broken_is_named(changed: dict[str, float], said: str) -> None:
    assert faults(**changed) == [said]
