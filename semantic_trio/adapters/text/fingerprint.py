"""Tells tokenizers and chat templates apart, so that no text is taken for tokens that another one
has made of it.

Knows what decides which tokens a conversation has. Knows nothing of weights: what a model computes
of given tokens stays valid when a template changes.
"""

import hashlib
import json
from collections.abc import Iterable

from transformers import PreTrainedTokenizerFast

# Changes when this code begins to render or cut the same conversation in another way.
VERSION = 3


def text_fingerprint(
    tokenizer: PreTrainedTokenizerFast, stop_tokens: Iterable[int], program: str = ""
) -> str:
    """SHA-256, in hexadecimal, of a tokenizer, its chat template, the program that stands in for
    it, and its special tokens.

    The tokenizer is hashed as it runs, not as its files are: truncation and padding have to be off
    before.
    """
    parts = [
        VERSION,
        tokenizer.backend_tokenizer.to_str(),
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
        sorted(stop_tokens),
        program,
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
