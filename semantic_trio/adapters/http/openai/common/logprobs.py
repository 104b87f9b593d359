"""Log-probabilities of a text's tokens, in the words of OpenAI's APIs.

Knows the wire and how tokens are spelled.
"""

from collections.abc import Callable, Iterable

import attrs

from semantic_trio.domain.generation import TokenEvent

TokenBytes = Callable[[int], bytes]  # the bytes of a token


@attrs.frozen
class TopLogprob:
    """One of the likeliest tokens at a position."""

    token: str
    logprob: float
    bytes: list[int]


@attrs.frozen
class TokenLogprob:
    """A token of the text, and the likeliest tokens at its position."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


@attrs.frozen
class ChoiceLogprobs:
    """The tokens of an answer's text."""

    content: list[TokenLogprob]
    refusal: None = None


def token_logprobs(tokens: Iterable[TokenEvent], token_bytes: TokenBytes) -> list[TokenLogprob]:
    """Return the log-probabilities of tokens."""
    return [_token_logprob(token, token_bytes) for token in tokens]


def _token_logprob(event: TokenEvent, token_bytes: TokenBytes) -> TokenLogprob:
    spelled = token_bytes(event.token)
    tops = ((token_bytes(token), logprob) for token, logprob in event.top)
    return TokenLogprob(
        text_of(spelled),
        event.logprob,
        list(spelled),
        [TopLogprob(text_of(one), logprob, list(one)) for one, logprob in tops],
    )


def text_of(spelled: bytes) -> str:
    """Return the text of a token; U+FFFD for a part of a character."""
    return spelled.decode(errors="replace")
