"""Conversations as token ids, and token ids as answers."""

from collections.abc import Sequence
from typing import Protocol

from semantic_trio.domain.conversation import AnswerPart, Conversation, Part
from semantic_trio.domain.prompt import NOTHING_KNOWN, Known, Prompt
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.stopping import TextDecoder, Thoughts


class AnswerReader(Protocol):
    """Takes one answer apart while it comes: text, thoughts, calls, in the words of one model."""

    def push(self, text: str) -> list[AnswerPart]:
        """Return what is certain now: more text, more of a thought, more of a call, or a whole
        call.

        Ids of calls are empty.

        Text that may become a delimiter is held back. Pieces of a call are the beginning of the
        arguments that the whole call then has.
        """

    def finish(self, *, is_cut: bool = False) -> list[AnswerPart]:
        """Return the rest; `is_cut`: the answer was not ended by the model.

        A call counts when it is whole. One that is not is text as it was written, or a `CutCall`
        where pieces of it were told.
        """

    @property
    def thoughts(self) -> Thoughts | None:
        """Delimiters of thoughts in the answer; None where there are none."""

    @property
    def is_over(self) -> bool:
        """True if the answer has ended in the model's words, with a token that ends no turn by
        itself.
        """

    @property
    def apart(self) -> type[Part] | None:
        """Type of the part that the last pushed text belongs to if that text gave no output (a
        delimiter, or blanks behind one), else None.
        """


class TextCodec(Protocol):
    """Tokenizer and chat template of a model, and its way of thinking and calling."""

    @property
    def fingerprint(self) -> str:
        """Hash of the tokenizer, the chat template and the special tokens: under one fingerprint a
        conversation has the same tokens.
        """

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a turn."""

    @property
    def longest_token_bytes(self) -> int:
        """Bytes of text that one token stands for at most; 0 where a token may stand for any
        number.
        """

    def encode_prompt(self, conversation: Conversation, known: Known = NOTHING_KNOWN) -> Prompt:
        """The prompt of a canonical conversation, up to where the assistant is to speak.

        Raises `InvalidRequestError` where the template refuses.

        Tokens of a message never depend on what comes after it. `known` stands for its messages as
        it is; only what follows is tokenised, and of that the draft is kept as far as its text
        agrees. Holds no lock for long.
        """

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The tokens of a plain text, with the beginning its model expects.

        Holds no lock for long.
        """

    def decode(self, tokens: Sequence[int]) -> str:
        """Text for people, special tokens included."""

    def token_bytes(self, token: int) -> bytes:
        """Return the bytes of one token's text, perhaps part of a character; of a special token its
        name.
        """

    def decoder(self) -> TextDecoder:
        """A fresh decoder for the tokens of one generation.

        Delimiters of thoughts and calls are text.
        """

    def reader(self, conversation: Conversation, opening: str) -> AnswerReader:
        """A fresh reader for the answer to a conversation; it reads the prompt's `opening` first.

        Arguments are read as the conversation's tools want them. Where no call may be made, calls
        are text.
        """

    def grammar(self, conversation: Conversation, opening: str) -> Grammar | None:
        """Return the grammar of the answer where the conversation demands calls or JSON of a form,
        or bounds its thoughts; else None.

        What a grammar cannot express is left out. Blocking: takes up to a second for what was never
        asked before. Raises `InvalidRequestError` where nothing can satisfy what is demanded,
        `GrammarError` where it is too complex.
        """
