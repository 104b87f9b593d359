"""What the engine and HTTP rely on in a codec, claimed of the fake and of the real tokenizer alike."""

from pathlib import Path

import pytest

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.text.codec import load_codec
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.entrypoints import settings
from semantic_trio.ports import TextCodec
from semantic_trio.testing import ByteCodec


@pytest.fixture(scope="session")
def model_directory() -> Path:
    return open_catalogue(settings.load({}).settings.data_dir).ensure("smollm2-135m", Lines())


@pytest.fixture(params=["fake", "smollm2-135m"])
def codec(request: pytest.FixtureRequest) -> TextCodec:
    if request.param == "fake":
        return ByteCodec()
    return load_codec(request.getfixturevalue("model_directory"))


def says(role: Role, text: str) -> Message:
    return Message(role, (Text(text),))


HELLO = (says(Role.SYSTEM, "Be kind."), says(Role.USER, "Hello"))


def test_the_same_conversation_is_the_same_tokens(codec: TextCodec) -> None:
    assert codec.encode_prompt(Conversation(HELLO)) == codec.encode_prompt(Conversation(HELLO))


def test_every_message_and_every_role_shows(codec: TextCodec) -> None:
    prompts = {
        codec.encode_prompt(Conversation(messages))
        for messages in (
            HELLO,
            HELLO[1:],
            (*HELLO, says(Role.ASSISTANT, "Hi"), says(Role.USER, "Bye")),
            (*HELLO, says(Role.USER, "Hi"), says(Role.USER, "Bye")),
            (says(Role.USER, "Hello"), says(Role.SYSTEM, "Be kind.")),
        )
    }
    assert len(prompts) == 5


def test_a_longer_conversation_begins_with_the_shorter_one(codec: TextCodec) -> None:
    """What makes a prefix reusable: appending turns changes nothing before them."""
    short = codec.encode_prompt(Conversation(HELLO)).tokens
    long = codec.encode_prompt(Conversation((*HELLO, says(Role.ASSISTANT, "Hi"), says(Role.USER, "Bye")))).tokens

    assert long[: len(short)] == short


@pytest.mark.parametrize("text", ["plain", "snowman ☃ and 👩‍👩‍👧", "a\nb\tc", " spaces  kept "])
def test_what_was_encoded_is_decoded_piece_by_piece(codec: TextCodec, text: str) -> None:
    prompt = codec.encode_prompt(Conversation((says(Role.USER, text),))).tokens
    decoder = codec.decoder()
    pieces = [decoder.push(token) for token in prompt] + [decoder.flush()]

    assert text in "".join(pieces)
    assert "�" not in "".join(pieces)


def test_decoders_know_nothing_of_each_other(codec: TextCodec) -> None:
    prompt = codec.encode_prompt(Conversation((says(Role.USER, "snowman ☃"),))).tokens
    one, other = codec.decoder(), codec.decoder()
    mixed = [(one.push(token), other.push(token)) for token in prompt]

    assert "".join(a for a, _ in mixed) == "".join(b for _, b in mixed)


def test_there_is_a_way_to_end_a_turn(codec: TextCodec) -> None:
    assert codec.stop_tokens
