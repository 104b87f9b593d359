"""Tokenizer and chat template of one model: conversations to token ids, token ids to text.

Imports no MLX and may be used from any thread.
"""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import chain, pairwise
from pathlib import Path
from typing import cast

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.alphabet import longest_token_bytes
from semantic_trio.adapters.text.capabilities import probe
from semantic_trio.adapters.text.continuing import continued, open_thought
from semantic_trio.adapters.text.decoding import IncrementalDecoder
from semantic_trio.adapters.text.fingerprint import text_fingerprint
from semantic_trio.adapters.text.formats.hermes import HERMES
from semantic_trio.adapters.text.formats.table import Foreign, formats
from semantic_trio.adapters.text.generic import RESULT, Definition
from semantic_trio.adapters.text.grammar import AnswerForm
from semantic_trio.adapters.text.guard import NO_GUARD, Guard, Segment
from semantic_trio.adapters.text.guidance import CompiledGrammar, Guidance
from semantic_trio.adapters.text.harmony import HarmonyTemplate, harmony
from semantic_trio.adapters.text.harmony_syntax import CALL, RETURN
from semantic_trio.adapters.text.imported import ImportedTemplate, Program
from semantic_trio.adapters.text.layout import PromptLayout, encodable
from semantic_trio.adapters.text.parts import fitting
from semantic_trio.adapters.text.reader import DelimiterReader
from semantic_trio.adapters.text.sandbox import let_lists_change, stop_time
from semantic_trio.adapters.text.segments import Borders, SegmentEncoder
from semantic_trio.adapters.text.spelling import Spelling
from semantic_trio.adapters.text.syntax import ToolSyntax
from semantic_trio.adapters.text.tally import CallTally
from semantic_trio.adapters.text.template import ChatTemplate
from semantic_trio.adapters.text.thinking import ThoughtDelimiters, thought_delimiters
from semantic_trio.adapters.text.turns import NO_SWITCHES, Render, Switches, Turn
from semantic_trio.adapters.text.written_calls import calling
from semantic_trio.domain.budget import ThoughtBudget
from semantic_trio.domain.conversation import NOTHING_KNOWN, Conversation, Known, Prompt, Role
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.ports import AnswerReader

# Transformers advises at import to install a framework it is not used with here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import AutoTokenizer, PreTrainedTokenizerFast

# Finds the parser that mlx-lm names for the calls of a tokenizer's model; None where it names none.
FindParser = Callable[[PreTrainedTokenizerFast], Foreign | None]
# Finds the chat template that the configuration of a tokenizer names beside Jinja's; None where it
# names none.
FindProgram = Callable[[PreTrainedTokenizerFast], Program | None]


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


def load_codec(
    path: Path,
    find_parser: FindParser = lambda tokenizer: None,
    find_program: FindProgram = lambda tokenizer: None,
) -> TokenizerCodec:
    """Return the codec of the model in a directory, without network access.

    Raises `ModelNotFoundError` when there is no usable tokenizer.
    """
    try:
        tokenizer, stops = (
            AutoTokenizer.from_pretrained(path, local_files_only=True),
            frozenset(_stop_tokens(path)),
        )
    except (
        Exception
    ) as error:  # the library below raises nothing narrower for a file it cannot read
        raise ModelNotFoundError(
            str(path), f"its tokenizer cannot be loaded: {str(error).partition(chr(10))[0]}"
        ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelNotFoundError(
            str(path),
            (
                f"its tokenizer is a {type(tokenizer).__name__}, which the tokenizers library "
                "cannot run"
            ),
        )
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # some tokenizer.json carry the lengths their models were trained with
    backend.no_padding()
    try:
        program = find_program(tokenizer)
        template = _template(tokenizer, find_parser(tokenizer), program)
    except ValueError as error:
        raise ModelNotFoundError(
            str(path),
            (
                f"its chat template does not work ({error}): put one that does into "
                "chat_template.jinja"
            ),
        ) from error
    ends = (
        {backend.token_to_id(end) for end in (CALL, RETURN)}
        if isinstance(template, HarmonyTemplate)
        else set()
    )
    stops |= {tokenizer.eos_token_id, *ends} - {None}
    return TokenizerCodec(
        tokenizer=backend,
        template=template,
        beginning=tokenizer.bos_token or "",
        silent=_silent(backend, template),
        stop_tokens=stops,
        fingerprint=text_fingerprint(tokenizer, stops, program.source if program else ""),
        longest_token_bytes=longest_token_bytes(backend),
    )


def _template(
    tokenizer: PreTrainedTokenizerFast, parser: Foreign | None, program: Program | None
) -> ChatTemplate | HarmonyTemplate | None:
    def render(
        turns: Sequence[Turn],
        tools: Sequence[Definition] = (),
        *,
        speak: bool = True,
        switches: Switches = NO_SWITCHES,
    ) -> str:
        given = list(tools) or None
        return cast(
            str,
            tokenizer.apply_chat_template(
                list(turns), given, tokenize=False, add_generation_prompt=speak, **switches
            ),
        )

    if program is not None:
        words = program.source
        delimiters, syntaxes = (
            thought_delimiters(tokenizer.get_vocab(), words),
            formats(words, parser),
        )
        return _chat_template(
            tokenizer, ImportedTemplate(program.apply, delimiters), words, delimiters, syntaxes
        )
    if not tokenizer.chat_template:
        return None
    let_lists_change(tokenizer.chat_template)
    stop_time(tokenizer.chat_template, datetime.now().astimezone())
    render = fitting(render)
    backend, words = tokenizer.backend_tokenizer, _text_of(tokenizer)
    spoken = harmony(render, words, Guard.of(backend, words))
    if spoken is not None:
        return spoken
    delimiters, syntaxes = thought_delimiters(tokenizer.get_vocab(), words), formats(words, parser)
    return _chat_template(tokenizer, render, words, delimiters, syntaxes)


def _chat_template(
    tokenizer: PreTrainedTokenizerFast,
    render: Render,
    words: str,
    delimiters: ThoughtDelimiters,
    syntaxes: tuple[ToolSyntax, ...],
) -> ChatTemplate:
    """Return the template of a model; `words`: its text."""
    render = calling(render, delimiters, syntaxes)
    made = ChatTemplate(render, delimiters, probe(render, delimiters, syntaxes), syntaxes)
    guard = Guard.of(
        tokenizer.backend_tokenizer,
        f"{words} {made.output_delimiters} {HERMES.start} {HERMES.end} {RESULT}",
    )
    return attrs.evolve(made, guard=guard)


def _text_of(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the text of all chat templates of a model; some models have a separate one for
    tools.
    """
    templates = tokenizer.chat_template
    return (
        "\n".join(map(str, templates.values())) if isinstance(templates, dict) else str(templates)
    )


def _silent(
    tokenizer: Tokenizer, template: ChatTemplate | HarmonyTemplate | None
) -> frozenset[int]:
    """Special tokens that are no text: all but the delimiters of thoughts and calls."""
    delimiters = template.output_delimiters if template else ""
    return frozenset(
        number
        for number, token in tokenizer.get_added_tokens_decoder().items()
        if token.special and token.content not in delimiters
    )


def _stop_tokens(path: Path) -> Iterator[int]:
    """Token ids that end a turn, from the model's configuration files."""
    for name in ("config.json", "generation_config.json"):
        file = path / name
        config = json.loads(file.read_text()) if file.is_file() else {}
        for part in (config, config.get("text_config") or {}):
            ids = part.get("eos_token_id")
            yield from ids if isinstance(ids, list) else [] if ids is None else [ids]
