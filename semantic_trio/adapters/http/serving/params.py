"""What a protocol's request asks of a generation, in no protocol's words."""

import attrs

from semantic_trio.adapters.http.common.identity import ANONYMOUS, Identity
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.generation import SamplingParams
from semantic_trio.domain.steering import NO_STEERING, Steering

# Below this the likeliest token is taken: dividing by less overflows.
COLDEST = 1e-3
# A nucleus of nothing still holds the likeliest token.
SMALLEST_NUCLEUS = 1e-6
# Stop strings are searched for in every piece of text, in the event loop.
MOST_STOPS, LONGEST_STOP = 64, 1000  # strings; characters of one


@attrs.frozen
class GenerationParams:
    """What a client asks for, in no protocol's words."""

    model: str
    conversation: Conversation
    max_tokens: int | None  # None: as far as the context goes
    sampling: "SamplingChoice"
    stop_strings: tuple[str, ...] = ()
    seed: int | None = None
    steering: Steering = NO_STEERING
    top_logprobs: int | None = None  # how many of the likeliest tokens are told with each of the text's; None: nothing is told of these
    identity: Identity = ANONYMOUS
    call_prefix: str = "call_"  # of the ids of calls
    is_private: bool = False  # where no agent is named, nothing of it is written to disk
    responses: tuple[str, ...] = ()  # ids of the responses it is made of, and of the one it makes
    prompt_field: str = "messages"  # the field of the request that the prompt is made of


@attrs.frozen
class SamplingChoice:
    """Sampling as a request wants it. None leaves a parameter to the model."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None  # 0 and -1 keep all tokens
    min_p: float | None = None
    repetition_penalty: float | None = None

    def params(self, model: SamplingParams) -> SamplingParams:
        """The sampling in force for a model that is sampled so by default."""
        temperature = model.temperature if self.temperature is None else self.temperature
        return SamplingParams(
            temperature=0.0 if temperature < COLDEST else temperature,
            top_p=max(model.top_p if self.top_p is None else self.top_p, SMALLEST_NUCLEUS),
            top_k=max(model.top_k if self.top_k is None else self.top_k, 0),
            min_p=model.min_p if self.min_p is None else self.min_p,
            repetition_penalty=model.repetition_penalty if self.repetition_penalty is None else self.repetition_penalty,
        )
