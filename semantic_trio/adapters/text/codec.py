"""One model's tokenizer and chat template: conversations to token ids, token ids to text.

Imports no MLX and may be used from any thread.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.decoding import IncrementalDecoder
from semantic_trio.adapters.text.template import ChatTemplate, Turn, probe
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError

# Transformers advises at import to install a framework it is not used with here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import AutoTokenizer, PreTrainedTokenizerFast


@attrs.frozen(eq=False)
class TokenizerCodec:
    """A `TextCodec` over a Hugging Face tokenizer."""

    _tokenizer: Tokenizer
    _template: ChatTemplate | None  # None where the model was not made for conversations
    _beginning: str  # the text of the token the tokenizer puts first, if it does
    _silent: frozenset[int]
    stop_tokens: frozenset[int]

    def encode_prompt(self, conversation: Conversation) -> tuple[int, ...]:
        """See `TextCodec.encode_prompt`. Special tokens are those the template writes; none is added to them."""
        if self._template is None:
            raise InvalidRequestError("the model has no chat template; it can only go on with a text", field="model")
        return self._encode(self._template.prompt(conversation), add_special_tokens=False)

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The ids of a plain text, with the beginning its model expects."""
        begun = bool(self._beginning) and text.startswith(self._beginning)
        return self._encode(text, add_special_tokens=not begun)

    def decoder(self) -> IncrementalDecoder:
        """See `TextCodec.decoder`."""
        return IncrementalDecoder(self._tokenizer, self._silent, self._tokenizer.get_vocab_size())

    def _encode(self, text: str, *, add_special_tokens: bool) -> tuple[int, ...]:
        # A batch of one: the library holds the interpreter's lock for the whole of a single `encode`, 35 ms for 100 KB, and not for a batch.
        [encoding] = self._tokenizer.encode_batch_fast([_encodable(text)], add_special_tokens=add_special_tokens)
        return tuple(encoding.ids)


def load_codec(path: Path) -> TokenizerCodec:
    """The codec of the model in a directory. Uses no network. Raises `ModelNotFoundError` when there is no usable tokenizer."""
    try:
        tokenizer, stops = AutoTokenizer.from_pretrained(path, local_files_only=True), frozenset(_stop_tokens(path))
    except Exception as error:  # the library below raises nothing narrower for a file it cannot read
        raise ModelNotFoundError(str(path), f"its tokenizer cannot be loaded: {str(error).partition(chr(10))[0]}") from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ModelNotFoundError(str(path), f"its tokenizer is a {type(tokenizer).__name__}, which the tokenizers library cannot run")
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()  # some tokenizer.json carry the lengths their models were trained with
    backend.no_padding()
    return TokenizerCodec(
        tokenizer=backend,
        template=_template(tokenizer),
        beginning=tokenizer.bos_token or "",
        silent=frozenset(number for number, token in backend.get_added_tokens_decoder().items() if token.special),
        stop_tokens=stops | ({tokenizer.eos_token_id} - {None}),
    )


def _template(tokenizer: PreTrainedTokenizerFast) -> ChatTemplate | None:
    def render(turns: Sequence[Turn]) -> str:
        return cast(str, tokenizer.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=True))

    return probe(render) if tokenizer.chat_template else None


def _stop_tokens(path: Path) -> Iterator[int]:
    """The ids that end a turn, as the model's configuration files have them."""
    for name in ("config.json", "generation_config.json"):
        file = path / name
        config = json.loads(file.read_text()) if file.is_file() else {}
        for part in (config, config.get("text_config") or {}):
            ids = part.get("eos_token_id")
            yield from ids if isinstance(ids, list) else [] if ids is None else [ids]


def _encodable(text: str) -> str:
    """The text with halves of surrogate pairs replaced: JSON may carry them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
