"""The usage of a request, in the words of OpenAI's APIs. Knows counts."""

import attrs

from semantic_trio.domain.generation import Finished


@attrs.frozen
class PromptTokensDetails:
    """The source of the prompt's tokens."""

    cached_tokens: int = 0


@attrs.frozen
class CompletionTokensDetails:
    """The kinds of the answer's tokens."""

    reasoning_tokens: int = 0


@attrs.frozen
class CompletionUsage:
    """The usage of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()

    @classmethod
    def of(cls, finished: Finished, thought_tokens: int = 0) -> "CompletionUsage":
        """Return the usage of a generation, or of several with one prompt."""
        prompt, completion = finished.prompt_tokens, finished.completion_tokens
        details = (
            PromptTokensDetails(finished.reuse.tokens),
            CompletionTokensDetails(thought_tokens),
        )
        return cls(prompt, completion, prompt + completion, *details)
