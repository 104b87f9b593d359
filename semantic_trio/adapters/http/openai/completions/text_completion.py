"""What the Completions API answers: whole texts, or their chunks.

Knows the wire and how generations end. Knows nothing of requests.
"""

import codecs
from collections.abc import Sequence
from typing import Literal

import attrs

from semantic_trio.adapters.http.openai.common.completion_chunks import Head
from semantic_trio.adapters.http.openai.common.finish_reason import REASONS, Reason
from semantic_trio.adapters.http.openai.common.logprobs import TokenBytes, text_of
from semantic_trio.adapters.http.openai.common.usage import CompletionUsage, PromptTokensDetails
from semantic_trio.application.answer import WholeAnswer
from semantic_trio.domain.generation import Finished, TokenEvent


@attrs.frozen
class TextLogprobs:
    """The tokens of a text, in columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters before each token


@attrs.frozen
class TextChoice:
    """One answer."""

    text: str
    index: int
    finish_reason: Reason | None
    logprobs: TextLogprobs | None = None


@attrs.frozen
class CompletionAnswer:
    """All answers to all prompts."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    object: Literal["text_completion"] = "text_completion"


@attrs.define(eq=False)
class Offsets:
    """Counts the characters before each token of a text. Tokens may end within one; it counts when it is whole."""

    _count: int = attrs.field(init=False, default=0)
    _decoder: codecs.IncrementalDecoder = attrs.field(init=False, factory=lambda: codecs.getincrementaldecoder("utf-8")("replace"))

    def take(self, spelled: bytes) -> int:
        """The characters before a token, which follows those that were taken before."""
        before = self._count
        self._count += len(self._decoder.decode(spelled))
        return before


@attrs.frozen
class TextCompletionFormat:
    """How this client is told of answers."""

    head: Head
    echoes: tuple[str, ...]  # what stands before the answers to each prompt
    per_prompt: int  # answers to each
    token_bytes: TokenBytes | None = None  # None: nothing is told of tokens

    def echo(self, index: int) -> str:
        """What stands before an answer."""
        return self.echoes[index // self.per_prompt]

    def logprobs(self, tokens: Sequence[TokenEvent], offsets: Offsets) -> TextLogprobs | None:
        """What is told of tokens; the offsets know those before them."""
        if self.token_bytes is None:
            return None
        spell = self.token_bytes
        spelled = [spell(token.token) for token in tokens]
        tops = [{text_of(spell(token)): logprob for token, logprob in one.top} for one in tokens]
        return TextLogprobs([text_of(one) for one in spelled], [token.logprob for token in tokens], tops, [offsets.take(one) for one in spelled])

    def usage(self, ends: Sequence[Finished]) -> CompletionUsage:
        """What all answers cost: each prompt counts once."""
        firsts = ends[:: self.per_prompt]
        prompt, completion = sum(end.prompt_tokens for end in firsts), sum(end.completion_tokens for end in ends)
        return CompletionUsage(prompt, completion, prompt + completion, PromptTokensDetails(sum(end.reuse.tokens for end in firsts)))


def text_completion(answer_format: TextCompletionFormat, answers: Sequence[WholeAnswer]) -> CompletionAnswer:
    """The answer of a request that does not stream."""
    choices = [
        TextChoice(answer_format.echo(index) + answer.text, index, REASONS[answer.finished.reason], answer_format.logprobs(answer.scores, Offsets()))
        for index, answer in enumerate(answers)
    ]
    return CompletionAnswer(
        answer_format.head.id,
        answer_format.head.created,
        answer_format.head.model,
        choices,
        answer_format.usage([answer.finished for answer in answers]),
    )
