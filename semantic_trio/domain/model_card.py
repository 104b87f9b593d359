"""Properties of a model that clients may know, whether it is open or not.

Knows names and numbers. Knows nothing of weights.
"""

import attrs

from semantic_trio.domain.embedding import APPROXIMATE, EmbeddingForm
from semantic_trio.domain.generation import API_SAMPLING, SamplingParams


@attrs.frozen
class ModelCard:
    """Properties of a model that clients see."""

    id: str
    display_name: str
    context_length: int  # tokens, prompt and answer together
    created_at: int  # seconds since 1970, UTC
    vocabulary: int = 0  # size of the vocabulary; 0: unknown
    weight_bytes: int = 0  # of the weights in memory
    embeds: EmbeddingForm = APPROXIMATE
    sampling: SamplingParams = API_SAMPLING  # defaults of parameters that a request does not give
