"""Tokenizer and chat template of one model: conversations to token ids, token ids to text.

Imports no MLX and may be used from any thread.
"""

from collections.abc import Sequence
from itertools import chain, pairwise

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.continuing import continued, open_thought
from semantic_trio.adapters.text.decoding import IncrementalDecoder
from semantic_trio.adapters.text.grammar import AnswerForm
from semantic_trio.adapters.text.guard import NO_GUARD, Segment
from semantic_trio.adapters.text.guidance import CompiledGrammar, Guidance
from semantic_trio.adapters.text.harmony import HarmonyTemplate
from semantic_trio.adapters.text.layout import PromptLayout, encodable
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.segments import Borders, SegmentEncoder
from semantic_trio.adapters.text.spelling import Spelling
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters
from semantic_trio.domain.budget import ThoughtBudget
from semantic_trio.domain.conversation import Conversation, Role
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.ports.text import AnswerReader


@attrs.frozen(eq=False)
class TokenizerCodec:
    """A `TextCodec` over a Hugging Face tokenizer."""

    _tokenizer: Tokenizer
    # None where the model was not made for conversations
    _template: ChatTemplate | HarmonyTemplate | None
    _beginning: str  # the text of the token the tokenizer puts first, if it does
    _silent: frozenset[int]
    stop_tokens: frozenset[int]
    fingerprint: str
    longest_token_bytes: int
    tally: CallTally = attrs.field(factory=CallTally, init=False)
    _segments: SegmentEncoder = attrs.field(init=False)
    _guidance: Guidance = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        guard = NO_GUARD if self._template is None else self._template.guard
        object.__setattr__(self, "_segments", SegmentEncoder(self._tokenizer, guard))
        object.__setattr__(self, "_guidance", Guidance.of(self._tokenizer, self.stop_tokens))

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """See `TextCodec.encode_prompt`.

        Special tokens are those the template writes; none is added to them.
        """
        if self._template is None:
            raise InvalidRequestError(
                "the model has no chat template; it can only go on with a text", field="model"
            )
        layout = self._layout(conversation, known.messages)
        borders = self._borders(layout, conversation)
        if known.messages and not (
            self._segments.can_go_on(layout, known.messages - 1)
            and self._fronts_agree(layout, borders, conversation, known)
        ):
            layout, known = self._layout(conversation), Known(draft=known.tokens + known.draft)
            borders = self._borders(layout, conversation)
        prompt = Spelling(self._tokenizer, self._segments, layout, borders).prompt(
            conversation.messages, known
        )
        if self._template.capabilities.switch.changes_front:
            prompt = attrs.evolve(prompt, thinking=conversation.thinking)
        if (prefill := conversation.prefill) is None:
            return prompt
        return attrs.evolve(
            prompt,
            opening=open_thought(
                prefill, self._template.delimiters.start, self._template.delimiters.end
            ),
        )

    def _layout(self, conversation: Conversation, known: int = 0) -> PromptLayout:
        assert self._template is not None
        layout, prefill = self._template.layout(conversation, known), conversation.prefill
        return layout if prefill is None else continued(layout, prefill)

    def _borders(self, layout: PromptLayout, conversation: Conversation) -> Borders:
        assert self._template is not None
        return self._segments.borders(layout, conversation, self._template.delimiters.opening)

    def _fronts_agree(
        self, layout: PromptLayout, borders: Borders, conversation: Conversation, known: Known
    ) -> bool:
        """False where known tokens were read with another choice of thinking, which the template
        writes in front of the first answer.
        """
        assert self._template is not None
        if not self._template.capabilities.switch.changes_front:
            return True
        answered = next(
            start
            for start, message in zip(layout.starts, conversation.messages, strict=True)
            if message.role is Role.ASSISTANT
        )
        cuts = [0, *(cut for cut in borders.cuts if cut <= answered)]
        tokens = tuple(
            chain.from_iterable(
                self._segments.encode(
                    [layout.segment(one, other) for one, other in pairwise(cuts)], begins=True
                )
            )
        )
        return known.tokens[: len(tokens)] == tokens

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextCodec.decode`."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False) if tokens else ""

    def encode_text(self, text: str) -> tuple[int, ...]:
        """Return the ids of a plain text, with the start token that the model expects."""
        begun = bool(self._beginning) and text.startswith(self._beginning)
        [encoding] = self._tokenizer.encode_batch_fast(
            [encodable(text)], add_special_tokens=not begun
        )
        return tuple(encoding.ids)

    def token_bytes(self, token: int) -> bytes:
        """See `TextCodec.token_bytes`."""
        return self._guidance.token_bytes(token)

    def decoder(self) -> IncrementalDecoder:
        """See `TextCodec.decoder`."""
        return IncrementalDecoder(self._tokenizer, self._silent, self._tokenizer.get_vocab_size())

    def reader(self, conversation: Conversation, opening: str) -> AnswerReader:
        """See `TextCodec.reader`."""
        if self._template is None:
            return DelimiterReader(ThoughtDelimiters(), (), (), opening)
        return self._template.reader(conversation, opening, self.tally)

    def grammar(self, conversation: Conversation, opening: str) -> Grammar | None:
        """See `TextCodec.grammar`."""
        if self._template is None:
            return None
        form = self._form(conversation, opening)
        is_bounded = (
            conversation.thought_budget is not None
            and conversation.thinks is not False
            and not self._template.call_opening(conversation)
        )
        return self._budget(conversation.thought_budget or 0, opening, form) if is_bounded else form

    def _form(self, conversation: Conversation, opening: str) -> CompiledGrammar | None:
        """Return the grammar of an answer with a demanded format; None where no format is
        demanded.
        """
        assert self._template is not None
        form = self._template.form(conversation) if conversation.demands_form else None
        if form is None:
            return None
        delimiters = self._template.delimiters
        thinks = (
            opening.startswith(delimiters.start)
            or self._tokenizer.token_to_id(delimiters.start) is not None
        )
        calls = self._template.calls_of(conversation)
        return AnswerForm(
            self._guidance, delimiters if thinks else None, calls, form, opening
        ).compile()

    def _budget(self, limit: int, opening: str, form: CompiledGrammar | None) -> ThoughtBudget:
        """Return a bound on thoughts; its closing text is the end delimiter with the template's
        text around it.
        """
        assert self._template is not None
        delimiters = self._template.delimiters
        [closing] = self._segments.encode(
            [Segment(f"{delimiters.pad}{delimiters.end}{delimiters.gap}")], begins=False
        )
        thoughts = Thoughts(
            delimiters.start, delimiters.end, is_open=opening.startswith(delimiters.start)
        )
        return ThoughtBudget(
            limit, thoughts, closing, self.decoder, self._tokenizer.get_vocab_size(), form
        )
