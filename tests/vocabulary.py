"""Small tokenizers and model directories for tests that need no real model."""

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

# A token for every byte, and two that steer.
BYTES = {token: number for number, token in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
START, END = len(BYTES), len(BYTES) + 1
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + "
    "'<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def byte_tokenizer() -> Tokenizer:
    """Byte-level, without merges."""
    tokenizer = Tokenizer(models.BPE(vocab=dict(BYTES), merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in ("<|im_start|>", "<|im_end|>")
        ]
    )
    return tokenizer


def fallback_tokenizer() -> Tokenizer:
    """As SentencePiece makes them: a token per byte of what is not in the vocabulary, and spaces
    that begin words.
    """
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256, "▁b": 257, "▁": 258}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True))
    steps = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
        decoders.Strip(" ", 1, 0),
    ]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def beginning_with(token: str, number: int) -> processors.TemplateProcessing:
    """What makes a tokenizer put a token before every text."""
    return processors.TemplateProcessing(single=f"{token} $A", special_tokens=[(token, number)])


def write_model(
    directory: Path,
    *,
    tokenizer: Tokenizer | None = None,
    chat_template: str | None = CHATML,
    **config: object,
) -> Path:
    """A directory with everything of a model but its weights."""
    directory.mkdir(parents=True, exist_ok=True)
    (tokenizer or byte_tokenizer()).save(str(directory / "tokenizer.json"))
    special = {
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    template = {"chat_template": chat_template} if chat_template is not None else {}
    (directory / "tokenizer_config.json").write_text(json.dumps(special | template))
    base = {
        "model_type": "llama",
        "vocab_size": END + 1,
        "bos_token_id": START,
        "eos_token_id": END,
        "pad_token_id": END,
    }
    (directory / "config.json").write_text(json.dumps(base | config))
    return directory
