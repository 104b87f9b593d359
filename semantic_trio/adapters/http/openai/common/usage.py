"""What a request is billed, in the words of OpenAI's APIs. Knows counts."""

import attrs

from semantic_trio.domain.generation import Finished


@attrs.frozen
class PromptTokensDetails:
    """Where the prompt's tokens came from."""

    cached_tokens: int = 0


@attrs.frozen
class CompletionTokensDetails:
    """What the answer's tokens were drawn for."""

    reasoning_tokens: int = 0


@attrs.frozen
class CompletionUsage:
    """What a request is billed."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails = PromptTokensDetails()
    completion_tokens_details: CompletionTokensDetails = CompletionTokensDetails()

    @classmethod
    def of(cls, finished: Finished, thought_tokens: int = 0) -> "CompletionUsage":
        """The usage of a generation, or of several that read one prompt."""
        prompt, completion = finished.prompt_tokens, finished.completion_tokens
        details = PromptTokensDetails(finished.reuse.tokens), CompletionTokensDetails(thought_tokens)
        return cls(prompt, completion, prompt + completion, *details)
