"""Text completions: whole answers in the words of the API.

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
    """The tokens of a text and their log-probabilities, in columns."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]]
    text_offset: list[int]  # characters before each token


@attrs.frozen
class TextChoice:
    """One answer of a completion."""

    text: str
    index: int
    finish_reason: Reason | None
    logprobs: TextLogprobs | None = None


@attrs.frozen
class CompletionAnswer:
    """The answers to all prompts."""

    id: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage
    object: Literal["text_completion"] = "text_completion"


@attrs.define(eq=False)
class Offsets:
    """Counts the characters before each token of a text.

    A character that several tokens spell counts when it is whole.
    """

    _count: int = attrs.field(init=False, default=0)
    _decoder: codecs.IncrementalDecoder = attrs.field(
        init=False, factory=lambda: codecs.getincrementaldecoder("utf-8")("replace")
    )

    def take(self, spelled: bytes) -> int:
        """Return the number of characters before a token that follows those of earlier calls."""
        before = self._count
        self._count += len(self._decoder.decode(spelled))
        return before


@attrs.frozen
class TextCompletionFormat:
    """The format of the answers to one request."""

    head: Head
    echoes: tuple[str, ...]  # echo of each prompt
    per_prompt: int  # number of answers to each prompt
    token_bytes: TokenBytes | None = None  # None: no log-probabilities are sent

    def echo(self, index: int) -> str:
        """Return the echo in front of an answer."""
        return self.echoes[index // self.per_prompt]

    def logprobs(self, tokens: Sequence[TokenEvent], offsets: Offsets) -> TextLogprobs | None:
        """Return the log-probabilities of tokens that follow those in `offsets`."""
        if self.token_bytes is None:
            return None
        spell = self.token_bytes
        spelled = [spell(token.token) for token in tokens]
        tops = [{text_of(spell(token)): logprob for token, logprob in one.top} for one in tokens]
        return TextLogprobs(
            [text_of(one) for one in spelled],
            [token.logprob for token in tokens],
            tops,
            [offsets.take(one) for one in spelled],
        )

    def usage(self, ends: Sequence[Finished]) -> CompletionUsage:
        """Return the usage of all answers: each prompt counts once."""
        firsts = ends[:: self.per_prompt]
        prompt, completion = (
            sum(end.prompt_tokens for end in firsts),
            sum(end.completion_tokens for end in ends),
        )
        return CompletionUsage(
            prompt,
            completion,
            prompt + completion,
            PromptTokensDetails(sum(end.reuse.tokens for end in firsts)),
        )


def text_completion(
    answer_format: TextCompletionFormat, answers: Sequence[WholeAnswer]
) -> CompletionAnswer:
    """Return the completion of whole answers."""
    choices = [
        TextChoice(
            answer_format.echo(index) + answer.text,
            index,
            REASONS[answer.finished.reason],
            answer_format.logprobs(answer.scores, Offsets()),
        )
        for index, answer in enumerate(answers)
    ]
    return CompletionAnswer(
        answer_format.head.id,
        answer_format.head.created,
        answer_format.head.model,
        choices,
        answer_format.usage([answer.finished for answer in answers]),
    )
