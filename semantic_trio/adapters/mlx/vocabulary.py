"""A tokenizer out of the vocabulary a GGUF file carries. Knows no arrays."""

import attrs
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

# The one family that is understood: byte-level BPE that splits text as SmolLM does.
SUPPORTED = "gpt2/smollm"
# llama.cpp's type of the tokens that steer a model and are no text.
CONTROL = 3


@attrs.frozen
class Vocabulary:
    """Tokens by id, and how they are made."""

    kind: str  # llama.cpp's model and pre-tokenizer
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]  # llama.cpp's type of each token
    merges: tuple[str, ...]  # "left right", the strongest first
    bos: int
    eos: int
    pad: int
    unknown: int
    context_length: int
    chat_template: str

    def tokenizer(self) -> Tokenizer:
        """The tokenizer. Raises `ValueError` for a kind that is not understood."""
        if self.kind != SUPPORTED:
            raise ValueError(f"the tokenizer is {self.kind}, only {SUPPORTED} is understood")
        numbered = {token: number for number, token in enumerate(self.tokens)}
        merges = [
            (left, right) for left, _, right in (merge.partition(" ") for merge in self.merges)
        ]
        tokenizer = Tokenizer(models.BPE(vocab=numbered, merges=merges))
        digits = pre_tokenizers.Digits(individual_digits=True)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        tokenizer.decoder = decoders.ByteLevel()
        special = [
            token for token, kind in zip(self.tokens, self.kinds, strict=True) if kind == CONTROL
        ]
        tokenizer.add_special_tokens(
            [AddedToken(token, special=True, normalized=False) for token in special]
        )
        return tokenizer

    def config(self) -> dict[str, object]:
        """The tokenizer_config.json beside it."""
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.tokens[self.bos],
            "eos_token": self.tokens[self.eos],
            "pad_token": self.tokens[self.pad],
            "unk_token": self.tokens[self.unknown],
            "clean_up_tokenization_spaces": False,
            "model_max_length": self.context_length,
            "chat_template": self.chat_template,
        }
