"""Conversations to token ids: exactly what the template says, once."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.adapters.text.codec import TokenizerCodec, load_codec
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from tests.vocabulary import BYTES, END, START, beginning_with, byte_tokenizer, write_model

HELLO = Conversation((Message(Role.USER, (Text("hi"),)),))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load_codec(write_model(tmp_path_factory.mktemp("model")))


def text_of(codec: TokenizerCodec, tokens: tuple[int, ...]) -> str:
    names = {START: "<|im_start|>", END: "<|im_end|>"}
    decoder = codec.decoder()
    return "".join(names.get(token) or decoder.push(token) for token in tokens) + decoder.flush()


def test_a_prompt_is_the_template_up_to_where_the_assistant_speaks(codec: TokenizerCodec) -> None:
    assert text_of(codec, codec.encode_prompt(HELLO).tokens) == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_beginning_the_template_writes_is_not_added_again(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = beginning_with("<|im_start|>", START)
    codec = load_codec(write_model(tmp_path, tokenizer=tokenizer))

    assert codec.encode_prompt(HELLO).tokens[:2] == (START, BYTES["u"])
    assert codec.encode_text("<|im_start|>u") == codec.encode_text("u") == (START, BYTES["u"])


def test_the_lengths_a_tokenizer_was_trained_with_cut_nothing(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=64)

    assert len(load_codec(write_model(tmp_path, tokenizer=tokenizer)).encode_text("longer than four")) == 16


@given(st.text(alphabet=st.one_of(st.characters(), st.integers(0xD800, 0xDFFF).map(chr)), max_size=40))
def test_any_text_of_a_request_can_be_encoded(codec: TokenizerCodec, text: str) -> None:
    """JSON may carry halves of surrogate pairs; two halves make a whole, one becomes U+FFFD."""
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    assert text_of(codec, codec.encode_text(text)) == expected


def test_every_id_that_ends_a_turn_is_a_stop_token(tmp_path: Path) -> None:
    write_model(tmp_path, eos_token_id=[5, 6], text_config={"eos_token_id": 7})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 8}')

    assert load_codec(tmp_path).stop_tokens == {5, 6, 7, 8, END}


def test_a_model_without_a_chat_template_takes_texts_and_no_conversations(tmp_path: Path) -> None:
    codec = load_codec(write_model(tmp_path, chat_template=None))

    assert codec.encode_text("hi")
    with pytest.raises(InvalidRequestError, match="no chat template"):
        codec.encode_prompt(HELLO)


@pytest.mark.parametrize("damage", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_files_that_cannot_be_read_are_a_model_that_cannot_be_served(damage: str, tmp_path: Path) -> None:
    (write_model(tmp_path) / damage).write_text("{")

    with pytest.raises(ModelNotFoundError, match="tokenizer cannot be loaded"):
        load_codec(tmp_path)


def test_a_directory_without_a_tokenizer_is_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_codec(tmp_path)


def test_the_model_library_is_not_needed_to_read_and_write_text() -> None:
    """A codec works on any thread; MLX belongs to one."""
    script = "import sys, semantic_trio.adapters.text.codec; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
