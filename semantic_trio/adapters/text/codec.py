"""One model's tokenizer and chat template: conversations to token ids, token ids to text.

Imports no MLX and may be used from any thread.
"""

import functools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import attrs
from tokenizers import Tokenizer

from semantic_trio.adapters.text.decoding import IncrementalDecoder
from semantic_trio.adapters.text.template import ChatTemplate, Turn, probe
from semantic_trio.domain.conversation import Conversation, Message, Prompt, Role, Text
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError

# Transformers advises at import to install a framework it is not used with here.
os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")

from transformers import AutoTokenizer, PreTrainedTokenizerFast

# Said by nobody: where a prompt with it parts from another, the words of that other's first speaker begin.
SOMETHING_ELSE = Message(Role.USER, (Text("\N{REPLACEMENT CHARACTER}"),))
HEADS_KEPT = 16


@attrs.frozen(eq=False)
class TokenizerCodec:
    """A `TextCodec` over a Hugging Face tokenizer."""

    _tokenizer: Tokenizer
    _template: ChatTemplate | None  # None where the model was not made for conversations
    _beginning: str  # the text of the token the tokenizer puts first, if it does
    _silent: frozenset[int]
    stop_tokens: frozenset[int]
    _heads: Callable[[str], tuple[int, ...]] = attrs.field(init=False)  # the same heads come again and again

    def __attrs_post_init__(self) -> None:
        encode = functools.partial(self._encode, add_special_tokens=False)
        object.__setattr__(self, "_heads", functools.lru_cache(HEADS_KEPT)(encode))

    def encode_prompt(self, conversation: Conversation, known: Sequence[int] = ()) -> Prompt:
        """See `TextCodec.encode_prompt`. Special tokens are those the template writes; none is added to them."""
        if self._template is None:
            raise InvalidRequestError("the model has no chat template; it can only go on with a text", field="model")
        text = _encodable(self._template.prompt(conversation))
        said = self.decode(known)
        if not text.startswith(said):
            known, said = (), ""
        tokens = (*known, *self._encode(text[len(said) :], add_special_tokens=False))
        return Prompt(tokens, self._head(conversation, text, tokens))

    def decode(self, tokens: Sequence[int]) -> str:
        """See `TextCodec.decode`."""
        return self._tokenizer.decode(list(tokens), skip_special_tokens=False) if tokens else ""

    def encode_text(self, text: str) -> tuple[int, ...]:
        """The ids of a plain text, with the beginning its model expects."""
        begun = bool(self._beginning) and text.startswith(self._beginning)
        return self._encode(text, add_special_tokens=not begun)

    def decoder(self) -> IncrementalDecoder:
        """See `TextCodec.decoder`."""
        return IncrementalDecoder(self._tokenizer, self._silent, self._tokenizer.get_vocab_size())

    def _head(self, conversation: Conversation, text: str, tokens: tuple[int, ...]) -> int:
        """Tokens up to where the first speaker's words begin: as far as the prompt agrees with one in which somebody says something else."""
        spoken = next((at for at, message in enumerate(conversation.messages) if message.role is not Role.SYSTEM), 0)
        if not spoken or self._template is None:
            return 0
        other = self._template.prompt(Conversation((*conversation.messages[:spoken], SOMETHING_ELSE)))
        head = self._heads(text[: _alike(text, other)])
        return _alike(head, tokens)

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


def _alike(one: Sequence[object], other: Sequence[object]) -> int:
    """How long two sequences begin alike."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # all before `low` is alike
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one[low:middle] == other[low:middle] else (low, middle - 1)
    return low


def _encodable(text: str) -> str:
    """The text with halves of surrogate pairs replaced: JSON may carry them, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
