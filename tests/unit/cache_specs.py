"""Geometries of caches with layers of every kind."""

import pytest

from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.testing import ATTENTION_ONLY

GLOBAL = LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8)


SLIDING = LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=8, window=32)


RECURRENT = LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=64)


SPECS = {
    "attention": ATTENTION_ONLY,
    "sliding": ModelCacheSpec("sliding", (GLOBAL, SLIDING), block_tokens=16, row_slack_tokens=32),
    "hybrid": ModelCacheSpec("hybrid", (GLOBAL, RECURRENT), block_tokens=16, row_slack_tokens=32),
    "recurrent": ModelCacheSpec("recurrent", (RECURRENT,), block_tokens=16, row_slack_tokens=32),
}


of_every_kind = pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
