"""Sampling that a model's authors recommend in its `generation_config.json`.

Knows that file. A model without it, or with values that cannot be, is sampled as the APIs say.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from semantic_trio.domain.generation import API_SAMPLING, SamplingParams

FILE = "generation_config.json"


def sampling_defaults(path: Path) -> SamplingParams:
    """The sampling of a model where a request says nothing else. Never raises."""
    try:
        config = json.loads((path / FILE).read_text())
    except (OSError, ValueError):
        return API_SAMPLING
    return _stated(config) if isinstance(config, dict) else API_SAMPLING


def _stated(config: Mapping[str, object]) -> SamplingParams:
    plain = API_SAMPLING
    return SamplingParams(
        temperature=_number(config.get("temperature"), 0.0, 2.0, plain.temperature),
        top_p=_number(config.get("top_p"), 1e-6, 1.0, plain.top_p),
        top_k=int(_number(config.get("top_k"), 0, 2**31 - 1, plain.top_k)),
        min_p=_number(config.get("min_p"), 0.0, 1.0, plain.min_p),
        repetition_penalty=_number(
            config.get("repetition_penalty"), 0.1, 10.0, plain.repetition_penalty
        ),
    )


def _number(value: object, low: float, high: float, otherwise: float) -> float:
    match value:
        case bool():
            return otherwise
        case int() | float() if low <= value <= high:
            return value
    return otherwise
