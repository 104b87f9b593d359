"""Bytes of text in tokens: the bound by which a text is known to be too long before it is
tokenised.

Knows vocabularies. Knows nothing of contexts.
"""

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

# Tokens of single bytes, as the two kinds of vocabularies spell them that leave no text unknown.
BYTE_LEVEL = frozenset(ByteLevel.alphabet())
BYTE_FALLBACK = frozenset(f"<0x{byte:02X}>" for byte in range(256))
# Bytes a vocabulary has at least that is made of bytes: some lack those that never or hardly occur
# in text.
KNOWN_BYTES = 192


def longest_token_bytes(tokenizer: Tokenizer) -> int:
    """Bytes of text that one token stands for at most; 0 where a token for unknown text may stand
    for any number.
    """
    names = tokenizer.get_vocab(with_added_tokens=True).keys()
    is_of_bytes = (
        len(BYTE_LEVEL & names) >= KNOWN_BYTES and getattr(tokenizer.model, "unk_token", "") is None
    )
    if not is_of_bytes and not names >= BYTE_FALLBACK:
        return 0
    return max(len(name.encode()) for name in names)
