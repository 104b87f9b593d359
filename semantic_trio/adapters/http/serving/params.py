"""Parameters of a generation, as a protocol's request asks for them."""

import attrs

from semantic_trio.adapters.http.common.identity import ANONYMOUS, Identity
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.steering import NO_STEERING, Steering

# Temperatures below this are greedy: dividing by less overflows.
COLDEST = 1e-3
# The smallest `top_p`: the nucleus always holds the likeliest token.
SMALLEST_NUCLEUS = 1e-6
# Stop strings are searched for in every piece of text, in the event loop.
MOST_STOPS, LONGEST_STOP = 64, 1000  # strings; characters of one


@attrs.frozen
class GenerationParams:
    """Parameters that a client asks for, independent of the protocol."""

    model: str
    conversation: Conversation
    max_tokens: int | None  # None: until the context is full
    sampling: "SamplingChoice"
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None
    steering: Steering = NO_STEERING
    # number of likeliest tokens reported for each token of the text; None: no log-probabilities
    top_logprobs: int | None = None
    identity: Identity = ANONYMOUS
    service_tier: str | None = None  # as OpenAI's APIs have it; the header of a request comes first
    call_prefix: str = "call_"  # prefix of the ids of tool calls
    is_private: bool = False  # without a named agent nothing of the conversation is written to disk
    # ids of the stored responses in the prompt, and of the one that is generated
    responses: tuple[str, ...] = ()
    prompt_field: str = "messages"  # field of the request that the prompt is made of


@attrs.frozen
class SamplingChoice:
    """Sampling parameters of a request. None leaves a parameter to the model."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # 0 and -1 keep all tokens
    min_p: float | None = None
    repetition_penalty: float | None = None

    def params(self, model: SamplingParams) -> SamplingParams:
        """Return the sampling parameters, with the model's defaults for those not given."""
        temperature = model.temperature if self.temperature is None else self.temperature
        return SamplingParams(
            temperature=0.0 if temperature < COLDEST else temperature,
            top_p=max(model.top_p if self.top_p is None else self.top_p, SMALLEST_NUCLEUS),
            top_k=max(model.top_k if self.top_k is None else self.top_k, 0),
            min_p=model.min_p if self.min_p is None else self.min_p,
            repetition_penalty=model.repetition_penalty
            if self.repetition_penalty is None
            else self.repetition_penalty,
        )
