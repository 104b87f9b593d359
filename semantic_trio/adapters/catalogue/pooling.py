"""Pooling of an embedding model, from the files that sentence-transformers writes.

Knows two of its files. A model without them was made to generate.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from semantic_trio.domain.embedding import APPROXIMATE, EmbeddingForm, Pooling

FILE = Path("1_Pooling") / "config.json"
NAMES = {
    "pooling_mode_lasttoken": Pooling.LAST,
    "pooling_mode_mean_tokens": Pooling.MEAN,
    "pooling_mode_cls_token": Pooling.FIRST,
}


def embedding_form(path: Path) -> EmbeddingForm:
    """Return how a model's vectors are made.

    Never raises: a file that cannot be read is ignored.
    """
    try:
        config = json.loads((path / FILE).read_text())
    except (OSError, ValueError):
        return APPROXIMATE
    return _stated(config) if isinstance(config, dict) else APPROXIMATE


def _stated(config: Mapping[str, object]) -> EmbeddingForm:
    """Older files have a switch for each way, newer ones its name."""
    by_name = {pooling.value: pooling for pooling in Pooling} | {
        "lasttoken": Pooling.LAST,
        "cls": Pooling.FIRST,
    }
    named = by_name.get(str(config.get("pooling_mode")))
    switched = next((pooling for name, pooling in NAMES.items() if config.get(name) is True), None)
    pooling = named or switched
    return APPROXIMATE if pooling is None else EmbeddingForm(pooling, is_approximate=False)
