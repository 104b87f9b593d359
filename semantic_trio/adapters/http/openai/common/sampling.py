"""Sampling fields that all of OpenAI's APIs share.

Knows numbers and their bounds. Knows nothing of conversations.
"""

from typing import Annotated

import msgspec

from semantic_trio.domain.steering import Steering

# Most tokens with a bias: more is a mistake, and each of them costs in every step.
MOST_BIASES = 1024
MOST_TOP_LOGPROBS = 20

Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)]
TopP = Annotated[float, msgspec.Meta(ge=0, le=1)]
TopK = Annotated[int, msgspec.Meta(ge=-1)]
Penalty = Annotated[float, msgspec.Meta(ge=-2, le=2)]
# an extension: of vLLM and of Hugging Face's transformers
RepetitionPenalty = Annotated[float, msgspec.Meta(ge=0.1, le=10)]
TokenKey = Annotated[str, msgspec.Meta(pattern="^[0-9]{1,10}$")]
Bias = Annotated[
    dict[TokenKey, Annotated[float, msgspec.Meta(ge=-100, le=100)]],
    msgspec.Meta(max_length=MOST_BIASES),
]
TopLogprobs = Annotated[int, msgspec.Meta(ge=0, le=MOST_TOP_LOGPROBS)]
Seed = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
Stop = str | list[str]


def steering(
    bias: dict[str, float] | None, frequency_penalty: float | None, presence_penalty: float | None
) -> Steering:
    """Return what is added to logits."""
    tokens = tuple((int(token), value) for token, value in (bias or {}).items())
    return Steering(tokens, frequency_penalty or 0.0, presence_penalty or 0.0)


def stops(stop: Stop | None) -> tuple[str, ...]:
    """Return the stop strings."""
    return (stop,) if isinstance(stop, str) else tuple(stop or ())
