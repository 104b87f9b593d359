"""Prompts whose answer goes on with the assistant's last message, claimed of the fake codec and of
real tokenizers and templates alike.
"""

import attrs
import pytest

from semantic_trio.domain.conversation import Conversation, Message, Role, Text, Thinking, ToolCall
from semantic_trio.ports.text import TextCodec
from tests.contract.test_codec import FAKE, HELLO, codec_of, read, says


@pytest.fixture(params=[FAKE, "smollm2-135m", "tiny-random"])
def codec(request: pytest.FixtureRequest) -> TextCodec:
    return codec_of(request.param)


def continuing(*parts: Text | Thinking) -> Conversation:
    """A conversation whose answer goes on with these parts."""
    return Conversation((*HELLO, Message(Role.ASSISTANT, parts)), continues=True)


@pytest.mark.parametrize("blanks", ["", " ", "\n\n"])
def test_the_prompt_ends_with_the_message_and_without_blanks(blanks: str, codec: TextCodec) -> None:
    prompt = codec.encode_prompt(continuing(Text(f"The capital is{blanks}")))

    assert codec.decode(prompt.tokens).endswith("The capital is")
    assert prompt.opening == ""


def test_the_prompt_is_the_front_of_the_turn_after(codec: TextCodec) -> None:
    front = codec.encode_prompt(continuing(Text("The capital is")))
    turn = codec.encode_prompt(
        Conversation(
            (*HELLO, says(Role.ASSISTANT, "The capital is Paris."), says(Role.USER, "And?"))
        )
    )

    assert codec.decode(turn.tokens).startswith(codec.decode(front.tokens))


def test_thoughts_before_the_text_are_kept(codec: TextCodec) -> None:
    text = codec.decode(
        codec.encode_prompt(continuing(Thinking("hm"), Text("The capital is"))).tokens
    )

    assert text.endswith("The capital is")
    assert "hm" in text[text.rindex("Hello") :]


def test_no_thought_is_begun_behind_a_text(codec: TextCodec) -> None:
    thinking = attrs.evolve(continuing(Text("The capital is")), thinks=True)

    assert codec.decode(codec.encode_prompt(thinking).tokens).endswith("The capital is")


def test_a_thought_that_the_text_has_begun_goes_on_as_one(codec: TextCodec) -> None:
    conversation = continuing(Text("<think>\nI see"))
    prompt = codec.encode_prompt(conversation)

    assert codec.decode(prompt.tokens).endswith("I see")
    assert read(codec, conversation, [" it.\n</think>\n\nParis"], prompt.opening) == [
        Thinking("it."),
        Text("Paris"),
    ]


def test_a_message_that_ends_with_calls_is_a_turn_of_its_own(codec: TextCodec) -> None:
    called = Conversation(
        (*HELLO, Message(Role.ASSISTANT, (Text("I look."), ToolCall("c", "look", "{}")))),
        continues=True,
    )

    assert codec.encode_prompt(called) == codec.encode_prompt(attrs.evolve(called, continues=False))


def test_a_user_s_message_is_answered(codec: TextCodec) -> None:
    assert codec.encode_prompt(Conversation(HELLO, continues=True)) == codec.encode_prompt(
        Conversation(HELLO)
    )
