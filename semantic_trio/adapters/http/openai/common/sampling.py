"""Sampling fields that all of OpenAI's APIs share, and the turns of agents with them.

Knows numbers and their bounds. Knows nothing of conversations.
"""

from typing import Annotated

import attrs
import msgspec

from semantic_trio.adapters.http.serving.params import SamplingChoice
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


@attrs.frozen(kw_only=True, slots=False)  # to be one base of several
class SamplingFields:
    """Sampling fields of every API that generates."""

    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: TopP | None = None
    repetition_penalty: RepetitionPenalty | None = None
    seed: Seed | None = None

    @property
    def sampling(self) -> SamplingChoice:
        """Return the sampling parameters of the request."""
        return SamplingChoice(
            self.temperature, self.top_p, self.top_k, self.min_p, self.repetition_penalty
        )


@attrs.frozen(kw_only=True, slots=False)  # to be one base of several
class SteeringFields(SamplingFields):
    """Sampling fields, and those that Chat Completions and Completions have beside them."""

    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    logit_bias: Bias | None = None
    stop: Stop | None = None

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """Return the stop strings of the request."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def steering(self) -> Steering:
        """Return what is added to logits."""
        tokens = tuple((int(token), value) for token, value in (self.logit_bias or {}).items())
        return Steering(tokens, self.frequency_penalty or 0.0, self.presence_penalty or 0.0)
