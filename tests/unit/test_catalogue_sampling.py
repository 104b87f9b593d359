"""How a model is sampled by default: what its directory says."""

import json
from pathlib import Path

import pytest

from semantic_trio.adapters.catalogue.sampling import FILE, sampling_defaults
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams

QWEN = {
    "do_sample": True,
    "repetition_penalty": 1.05,
    "temperature": 0.7,
    "top_p": 0.8,
    "top_k": 20,
    "eos_token_id": [151645, 151643],
}


def test_the_models_own_values_are_taken(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(QWEN))

    assert sampling_defaults(tmp_path) == SamplingParams(
        temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05
    )


def test_without_the_file_the_apis_decide(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == API_SAMPLING


@pytest.mark.parametrize("content", ["", "[1]", "{", "null", "\xff"])
def test_a_file_that_is_none_says_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content, encoding="latin1")

    assert sampling_defaults(tmp_path) == API_SAMPLING


@pytest.mark.parametrize(
    "config",
    [
        {"temperature": None, "top_k": None, "top_p": None},
        {"temperature": "0.5", "top_p": True, "top_k": [3], "min_p": {}, "repetition_penalty": "1"},
        {"temperature": -1, "top_p": 0, "top_k": -1, "min_p": 2, "repetition_penalty": 0},
        {"temperature": 1e9, "top_p": 1.5, "top_k": 10**20, "repetition_penalty": float("inf")},
        {"temperature": float("nan")},
    ],
)
def test_values_that_cannot_be_are_left_out(tmp_path: Path, config: dict[str, object]) -> None:
    (tmp_path / FILE).write_text(json.dumps(config))

    assert sampling_defaults(tmp_path) == API_SAMPLING
