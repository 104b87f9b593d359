"""Tokens to text, one at a time, never splitting a character."""

import attrs
from tokenizers import Tokenizer
from tokenizers.decoders import DecodeStream

# Tokens held back for one character. A character has at most four bytes; more than this is broken
# text, whose certain part is let go: the library's stream would hold it to the end, and look at all
# of it again with every token.
MOST_HELD = 16
BROKEN = "\ufffd"


@attrs.define(eq=False)
class IncrementalDecoder:
    """A `TextDecoder` over the library's stream, which never gives its last characters back and
    stops at text that cannot be right.

    All that `push` and `flush` return, joined, is what the tokenizer makes of all tokens at once,
    special ones left out. (Where single bytes are tokens of their own, as in SentencePiece
    vocabularies, that holds for valid text; broken bytes show as U+FFFD, in number perhaps not the
    same.)
    """

    _tokenizer: Tokenizer
    _silent: frozenset[int]  # ids that are no text
    _size: int  # models may know more ids than their tokenizers
    _held: list[int] = attrs.field(init=False, factory=list)
    _stream: DecodeStream = attrs.field(init=False, factory=DecodeStream)

    def push(self, token: int) -> str:
        """See `TextDecoder.push`."""
        if token in self._silent or not 0 <= token < self._size:
            return ""
        self._held.append(token)
        text = self._step(token)
        if text is not None:
            self._held.clear()
        elif len(self._held) % MOST_HELD == 0:
            text = self._let_go()
        return text or ""

    def flush(self) -> str:
        """See `TextDecoder.flush`."""
        held, self._held, self._stream = self._held, [], DecodeStream()
        return self._decode(held)

    def _step(self, token: int) -> str | None:
        try:
            return self._stream.step(self._tokenizer, token)
        except Exception:  # noqa: BLE001 - it has no type of its own: the token makes a broken character of bytes before it
            self._stream = DecodeStream(list(self._held))
            return self._decode(self._held)

    def _let_go(self) -> str:
        """The text of the oldest held tokens, as many as no later token can change; the stream goes
        on with the others.
        """
        whole = self._decode(self._held)
        for cut in range(len(self._held) - 1, len(self._held) - MOST_HELD, -1):
            left, right = self._decode(self._held[:cut]), self._decode(self._held[cut:])
            if left + right == whole:
                self._held = self._held[cut:]
                self._stream = DecodeStream()
                self._stream.step(self._tokenizer, self._held)
                return left
        return ""

    def _decode(self, tokens: list[int]) -> str:
        return self._tokenizer.decode(tokens, skip_special_tokens=False)
