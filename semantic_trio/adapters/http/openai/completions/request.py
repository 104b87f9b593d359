"""Requests of the Completions API, and the parameters of a generation they stand for.

Knows the wire. Fields that are not named here are accepted and ignored.
"""

from typing import Annotated, Literal

import attrs
import msgspec

from semantic_trio.adapters.http.common.compatibility_fields import (
    INERT_VALUES,
    Refused,
    refuse_unsupported,
)
from semantic_trio.adapters.http.common.identity import ANONYMOUS, Identity
from semantic_trio.adapters.http.common.limits import NO_LIMIT
from semantic_trio.adapters.http.openai.common.request_fields import MOST_CHOICES, SampledRequest
from semantic_trio.adapters.http.openai.common.sampling import MOST_TOP_LOGPROBS
from semantic_trio.adapters.http.openai.common.text_inputs import text_inputs_schema
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.domain.conversation import NOTHING_SAID
from semantic_trio.domain.errors import InvalidRequestError

# Default of `max_tokens` in the API.
DEFAULT_TOKENS = 16


@attrs.frozen
class PlainText:
    """The only response format of this API."""

    type: Literal["text"]


@attrs.frozen(kw_only=True)
class CompletionRequest(SampledRequest):
    """Texts to continue, or their tokens."""

    prompt: Annotated[msgspec.Raw, text_inputs_schema(MOST_CHOICES)]
    max_tokens: Annotated[int, msgspec.Meta(ge=NO_LIMIT)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
    response_format: PlainText | None = None
    guided_json: Refused = None
    structured_outputs: Refused = None
    json_schema: Refused = None
    format: Refused = None
    guided_choice: Refused = None
    guided_regex: Refused = None
    guided_grammar: Refused = None
    structural_tag: Refused = None
    grammar: Refused = None
    regex: Refused = None
    ebnf: Refused = None


def generation_params(
    request: CompletionRequest, identity: Identity = ANONYMOUS
) -> GenerationParams:
    """Return the parameters of a request, without its prompts. Raises `InvalidRequestError`."""
    _refuse_unsupported_fields(request)
    return GenerationParams(
        model=request.model,
        conversation=NOTHING_SAID,
        max_tokens=DEFAULT_TOKENS
        if request.max_tokens is None
        else None
        if request.max_tokens == NO_LIMIT
        else request.max_tokens,
        sampling=request.sampling,
        stop_strings=request.stop_strings,
        seed=request.seed,
        steering=request.steering,
        top_logprobs=request.logprobs,
        identity=identity,
        service_tier=request.service_tier,
        prompt_field="prompt",
    )


def _refuse_unsupported_fields(request: CompletionRequest) -> None:
    """Raise `InvalidRequestError` for fields that would change the answer if they were ignored."""
    refuse_unsupported(request)
    for field in ("guided_json", "structured_outputs", "json_schema", "format"):
        if getattr(request, field) not in INERT_VALUES:
            raise InvalidRequestError(
                "a form of the answer can be demanded of /v1/chat/completions alone",
                field,
                quotes=False,
            )
    if request.suffix:
        raise InvalidRequestError(
            "nothing is inserted before a suffix here", "suffix", quotes=False
        )
    if request.best_of not in {None, request.choices}:
        raise InvalidRequestError(
            "every answer is returned: leave best_of out, or send the value of n",
            "best_of",
            quotes=False,
        )
    if request.echo and request.logprobs is not None:
        raise InvalidRequestError(
            (
                "echo together with logprobs is not supported: log-probabilities are those of the "
                "answer alone"
            ),
            "echo",
            quotes=False,
        )
