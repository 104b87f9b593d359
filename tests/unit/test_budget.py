"""Bounds on thoughts: they are ended once, at the bound, in the model's own words."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.adapters.text.thinking import HERMES_THINKS, OTHER_DELIMITERS
from semantic_trio.domain.budget import BudgetState, ThoughtBudget, enforced
from semantic_trio.domain.conversation import (
    Calling,
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolChoice,
)
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.testing.codec import ByteDecoder
from semantic_trio.testing.grammar import OneAnswer
from tests import harmony
from tests.parts import joined
from tests.vocabulary import CHATML, byte_tokenizer, write_model

CLOSING = tuple(b"\n</think>\n\n")
ASKED = Conversation((Message(Role.USER, (Text("hi"),)),), thinks=True, thought_budget=5)


def budget(limit: int, *, is_open: bool = True) -> ThoughtBudget:
    return ThoughtBudget(limit, Thoughts("<think>", "</think>", is_open), CLOSING, ByteDecoder, 256)


def only(state: BudgetState) -> int | None:
    """The one token that may come; None where any may."""
    bits = int.from_bytes(state.allowed(), "little")
    return bits.bit_length() - 1 if bits.bit_count() == 1 else None


def answered(grammar: ThoughtBudget, wanted: Sequence[int]) -> list[int]:
    """What comes of a model that wants to say this."""
    state, said, rest = grammar.start(), list[int](), list(wanted)
    while rest or only(state) is not None:
        forced = only(state)
        said.append(rest.pop(0) if forced is None else forced)
        state.take(said[-1])
    return said


def bytes_of(grammar: ThoughtBudget, wanted: bytes) -> bytes:
    return bytes(answered(grammar, wanted))


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_a_thought_is_ended_at_the_bound(limit: int) -> None:
    assert (
        bytes_of(budget(limit), b"abcdefgh")
        == b"abcdefgh"[:limit] + bytes(CLOSING) + b"abcdefgh"[limit:]
    )


def test_a_thought_that_ends_by_itself_is_left_alone() -> None:
    for said in (b"abc</think>so and so on", b"abcde</think>"):
        assert bytes_of(budget(5 + len("</think>")), said) == said


def test_a_thought_that_the_model_begins_is_bounded_too() -> None:
    assert (
        bytes_of(budget(3, is_open=False), b"so <think>abcdef")
        == b"so <think>abc" + bytes(CLOSING) + b"def"
    )
    assert (
        bytes_of(budget(3, is_open=False), b"so <thin and no thought") == b"so <thin and no thought"
    )


def test_all_thoughts_of_an_answer_share_the_bound() -> None:
    spent = len("ab</think>")
    assert (
        bytes_of(budget(spent + 1), b"ab</think>x<think>cde")
        == b"ab</think>x<think>c" + bytes(CLOSING) + b"de"
    )


@given(
    wanted=st.text(alphabet="ab<think>/\n", max_size=40),
    limit=st.integers(0, 12),
    at=st.integers(0, 60),
)
def test_a_row_that_comes_back_is_bounded_where_it_was(wanted: str, limit: int, at: int) -> None:
    said = bytes_of(budget(limit), wanted.encode())
    state, again = budget(limit).start(), budget(limit).start()
    for token in said[:at]:
        state.take(token)
        again.take(token)
    for token in said[at:]:
        assert state.allowed() == again.allowed()
        assert only(state) in {None, token}
        state.take(token)
        again.take(token)


def test_what_else_an_answer_is_held_to_holds_too() -> None:
    grammar = attrs.evolve(budget(2), inner=OneAnswer(b"ab" + bytes(CLOSING) + b"{}"))
    state, said = grammar.start(), b""
    for _ in range(len(CLOSING) + 4):
        token = only(state)
        assert token is not None
        state.take(token)
        said += bytes([token])
    assert said == b"ab" + bytes(CLOSING) + b"{}"


def test_a_bound_that_cannot_be_reached_costs_nothing() -> None:
    inner = OneAnswer(b"a")
    assert enforced(attrs.evolve(budget(99), inner=inner), 100) is inner
    assert isinstance(enforced(budget(98), 100), ThoughtBudget)
    assert enforced(inner, 1) is inner


def test_thoughts_are_ended_in_the_delimiters_of_the_model(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ("<think>", "</think>")])
    qwen = load_codec(write_model(tmp_path / "qwen", tokenizer=tokenizer, chat_template=CHATML))
    oss = load_codec(
        write_model(
            tmp_path / "oss", tokenizer=harmony.harmony_tokenizer(), chat_template=harmony.TEMPLATE
        )
    )

    for codec, words in ((qwen, "\n</think>\n\n"), (oss, "<|end|><|start|>assistant")):
        grammar = codec.grammar(ASKED, "")
        assert isinstance(grammar, ThoughtBudget)
        assert codec.decode(grammar.closing) == words
        assert len(grammar.closing) == len(codec.encode_text(words))


FAMILIES = {
    delimiters.start: (words, delimiters)
    for words, delimiters in ((("<think>", "</think>"), HERMES_THINKS), *OTHER_DELIMITERS)
}


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_thoughts_of_every_family_are_ended_once_and_what_follows_is_text(
    family: str, is_open: bool, tmp_path: Path
) -> None:
    words, delimiters = FAMILIES[family]
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in words])
    codec = load_codec(
        write_model(
            tmp_path, tokenizer=tokenizer, chat_template=CHATML + "{# " + " ".join(words) + " #}"
        )
    )
    opening = delimiters.opening if is_open else ""
    said = said_by(
        codec, opening, codec.encode_text(("" if is_open else delimiters.opening) + "abcdefgh")
    )

    assert codec.decode(said).count(delimiters.end) == 1
    thought = 5 if is_open else 5 - len(delimiters.pad)
    assert read_by(codec, opening, said) == [
        Thinking("abcdefgh"[:thought]),
        Text("abcdefgh"[thought:]),
    ]


def test_a_thought_of_harmony_is_ended_once_and_an_answer_follows(tmp_path: Path) -> None:
    codec = load_codec(
        write_model(tmp_path, tokenizer=harmony.harmony_tokenizer(), chat_template=harmony.TEMPLATE)
    )
    said = said_by(codec, "", codec.encode_text("<|channel|>analysis<|message|>abcdefgh"))
    answer = codec.encode_text("<|channel|>final<|message|>So.")

    assert codec.decode(said) == "<|channel|>analysis<|message|>abcde<|end|><|start|>assistantfgh"
    assert read_by(codec, "", (*said[: -len("fgh")], *answer)) == [Thinking("abcde"), Text("So.")]


def said_by(codec: TokenizerCodec, opening: str, wanted: Sequence[int]) -> tuple[int, ...]:
    """What comes of a model that wants to say this and may think five tokens."""
    grammar = codec.grammar(ASKED, opening)
    assert isinstance(grammar, ThoughtBudget)
    return tuple(answered(grammar, wanted))


def read_by(codec: TokenizerCodec, opening: str, tokens: Sequence[int]) -> list[Part]:
    decoder, reader = codec.decoder(), codec.reader(ASKED, opening)
    return joined(
        [part for token in tokens for part in reader.push(decoder.push(token))] + reader.finish()
    )


def test_nothing_is_bounded_where_nothing_is_thought(tmp_path: Path) -> None:
    codec = load_codec(write_model(tmp_path))
    assert codec.grammar(attrs.evolve(ASKED, thought_budget=None), "") is None
    assert codec.grammar(attrs.evolve(ASKED, thinks=False), "") is None
    called = attrs.evolve(ASKED, tools=(Tool("look"),), choice=ToolChoice(Calling.REQUIRED))
    assert not isinstance(codec.grammar(called, codec.encode_prompt(called).opening), ThoughtBudget)
