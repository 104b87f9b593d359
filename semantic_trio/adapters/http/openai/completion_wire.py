"""What clients of the Completions API send, and what it means.

Knows the wire. Fields that are not named here are accepted and ignored.
"""

from typing import Annotated

import attrs
import msgspec

from semantic_trio.adapters.http.generate import Asked
from semantic_trio.adapters.http.identity import NOBODY, Identity
from semantic_trio.adapters.http.openai.request import MOST_CHOICES, DrawingRequest
from semantic_trio.adapters.http.openai.sampling import MOST_TOP_LOGPROBS
from semantic_trio.domain.conversation import NOTHING_SAID
from semantic_trio.domain.errors import InvalidRequestError

# What the API generates where nothing is said of it.
DEFAULT_TOKENS = 16

Token = Annotated[int, msgspec.Meta(ge=0)]
Prompt = Annotated[str, msgspec.Meta(min_length=1)]
TokenPrompt = Annotated[list[Token], msgspec.Meta(min_length=1)]


@attrs.frozen(kw_only=True)
class CompletionRequest(DrawingRequest):
    """Texts to go on with, or tokens."""

    prompt: Prompt | Annotated[list[Prompt | TokenPrompt | Token], msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=0)] | None = None
    logprobs: Annotated[int, msgspec.Meta(ge=0, le=MOST_TOP_LOGPROBS)] | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


def asked(request: CompletionRequest, identity: Identity = NOBODY) -> Asked:
    """What a request means, but for its prompts. Raises `InvalidRequestError`."""
    _refuse_the_rest(request)
    return Asked(
        model=request.model,
        conversation=NOTHING_SAID,
        max_tokens=DEFAULT_TOKENS if request.max_tokens is None else request.max_tokens,
        sampling=request.sampling,
        stop_strings=request.stop_strings,
        seed=request.seed,
        steering=request.steering,
        top_logprobs=request.logprobs,
        identity=identity,
    )


def _refuse_the_rest(request: CompletionRequest) -> None:
    """What would be silently something else if it were ignored."""
    if request.suffix:
        raise InvalidRequestError("nothing is inserted before a suffix here", "suffix")
    if request.best_of not in {None, request.choices}:
        raise InvalidRequestError("all answers are told: best_of is n", "best_of")
    if request.echo and request.logprobs is not None:
        raise InvalidRequestError("nothing is told of the prompt's tokens: echo or logprobs", "echo")


def prompts_of(request: CompletionRequest, vocabulary: int) -> list[str | tuple[int, ...]]:
    """The prompts, as texts or tokens. Raises `InvalidRequestError`."""
    prompt = request.prompt
    if isinstance(prompt, str):
        return [prompt]
    tokens = [item for item in prompt if isinstance(item, int)]
    if tokens and len(tokens) == len(prompt):
        return [_known(tokens, vocabulary)]
    if tokens or not prompt or len(prompt) > MOST_CHOICES:
        raise InvalidRequestError(f"a text, tokens, or 1 to {MOST_CHOICES} of either", "prompt")
    return [_known(item, vocabulary) if isinstance(item, list) else str(item) for item in prompt]


def _known(tokens: list[int], vocabulary: int) -> tuple[int, ...]:
    if not tokens or (vocabulary and max(tokens) >= vocabulary):
        raise InvalidRequestError(f"tokens are ids below {vocabulary}, at least one", "prompt")
    return tuple(tokens)
