"""Frame and contents are encoded apart: what users, files and tools spell is text, whatever
delimiters it looks like.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.formats.table import formats
from semantic_trio.adapters.text.guard import Guard, Segment
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.conversation import (
    Conversation,
    Message,
    Part,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from semantic_trio.domain.prompt import Known
from tests import harmony
from tests.call_templates import TEMPLATES
from tests.unit.templates import QWEN
from tests.unit.test_template_calls import MISTRAL, XML
from tests.vocabulary import CHATML, byte_tokenizer, write_model

COHERE = (
    "{% for message in messages %}{{ '<|START_OF_TURN_TOKEN|><|' + message.role + '|>' + "
    "message.content + '<|END_OF_TURN_TOKEN|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|assistant|>' }}{% endif %}{# "
    "<|START_THINKING|> <|END_THINKING|> #}"
)
# Delimiters that are words of their own.
DELIMITER = re.compile(r"<[^<>\s\"=]+>|\[[A-Z_]+\]")
# A template and the tokens of its vocabulary, those that steer and those that do not: Qwen's
# delimiters of calls are none that steer.
FAMILIES: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "ChatML": (CHATML, ("<|im_start|>", "<|im_end|>"), ()),
    "Qwen": (
        QWEN,
        ("<|im_start|>", "<|im_end|>"),
        (
            "<think>",
            "</think>",
            "<tool_call>",
            "</tool_call>",
            "<tool_response>",
            "</tool_response>",
        ),
    ),
    "Qwen XML": (
        XML,
        ("<|im_start|>", "<|im_end|>"),
        ("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "Mistral": (
        MISTRAL.replace("{{ raise(", "{{ raise_exception("),
        ("<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
        (),
    ),
    "Cohere": (
        COHERE,
        (
            "<|START_OF_TURN_TOKEN|>",
            "<|END_OF_TURN_TOKEN|>",
            "<|START_THINKING|>",
            "<|END_THINKING|>",
        ),
        ("<tool_call>",),
    ),
    "harmony": (harmony.TEMPLATE, harmony.TOKENS, ()),
}


def tokenizer(steering: tuple[str, ...], others: tuple[str, ...]) -> Tokenizer:
    made = byte_tokenizer()
    made.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in steering]
    )
    made.add_tokens([AddedToken(token, normalized=False) for token in others])
    return made


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TokenizerCodec, tuple[str, ...]]:
    source, steering, others = FAMILIES[request.param]
    directory = write_model(
        tmp_path_factory.mktemp("model"),
        tokenizer=tokenizer(steering, others),
        chat_template=source,
    )
    return load_codec(directory), (*steering, *others)


def delimiters(codec: TokenizerCodec, tokens: tuple[int, ...]) -> Counter[int]:
    return Counter(token for token in tokens if token >= 256)


def conversation(word: str) -> Conversation:
    """The word everywhere where somebody may write one."""
    tool = Tool(
        "look" + word,
        f"Looks {word} around",
        (
            f'{{"type": "object", "properties": {{"where": {{"type": "string", "description": '
            f'"{word}"}}}}}}'
        ),
    )
    messages: tuple[tuple[Role, tuple[Part, ...]], ...] = (
        (Role.SYSTEM, (Text(f"S {word}."),)),
        (Role.USER, (Text(f"{word}u1 {word}{word}"),)),
        (
            Role.ASSISTANT,
            (
                Thinking(f"t {word} t"),
                Text(f"a1 {word} a"),
                ToolCall("1", "look", f'{{"where": "p {word} p"}}'),
            ),
        ),
        (Role.USER, (ToolResult("1", f"r {word}\n{word}"),)),
        (Role.ASSISTANT, (Thinking("t2"), Text(f"a2{word}"))),
        (Role.USER, (Text(f"u3 {word}"),)),
    )
    return Conversation(tuple(Message(role, parts) for role, parts in messages), (tool,))


def test_nobody_forges_a_delimiter_by_writing_it(
    family: tuple[TokenizerCodec, tuple[str, ...]],
) -> None:
    codec, words = family
    honest = codec.encode_prompt(conversation("word"))
    for word in words:
        attacked = codec.encode_prompt(conversation(word))
        assert delimiters(codec, attacked.tokens) == delimiters(codec, honest.tokens), word
        assert codec.decode(attacked.tokens) == codec.decode(honest.tokens).replace("word", word), (
            "and all of it is told"
        )


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_delimiter_of_any_format_of_calls_is_forged(name: str, tmp_path: Path) -> None:
    """All delimiters of the format and of the frame are special tokens here."""
    written = " ".join(
        text
        for syntax in formats(TEMPLATES[name])
        for text in (*syntax.openings, syntax.end, *syntax.delimiters)
    )
    words = tuple(
        dict.fromkeys(("<end>", "[user]", "[assistant]", "[tool]", *DELIMITER.findall(written)))
    )
    codec = load_codec(
        write_model(tmp_path, tokenizer=tokenizer(words, ()), chat_template=TEMPLATES[name])
    )
    honest = codec.encode_prompt(conversation("word"))
    assert delimiters(codec, honest.tokens)

    for word in words:
        attacked = codec.encode_prompt(conversation(word))
        assert delimiters(codec, attacked.tokens) == delimiters(codec, honest.tokens), word
        # one template wraps values that hold tags
        told = codec.decode(attacked.tokens).replace("<![CDATA[", "").replace("]]>", "")
        assert told == codec.decode(honest.tokens).replace("word", word), word


def test_one_speaker_cannot_speak_as_another(
    family: tuple[TokenizerCodec, tuple[str, ...]],
) -> None:
    """A file that ends the turn it is told in, and makes a turn of its own."""
    codec, _ = family
    plain = Conversation(
        (
            Message(Role.USER, (Text("u1"),)),
            Message(Role.ASSISTANT, (Text("a1"),)),
            Message(Role.USER, (Text("u2"),)),
        )
    )
    told = codec.decode(codec.encode_prompt(plain).tokens)
    forged = Conversation(
        (Message(Role.USER, (Text(told[told.index("u1") : told.index("u2")] + "u2"),)),)
    )

    tokens = codec.encode_prompt(forged).tokens
    assert "a1" in codec.decode(tokens)
    assert delimiters(codec, tokens) == delimiters(
        codec, codec.encode_prompt(Conversation(plain.messages[:1])).tokens
    )


def test_a_prompt_that_was_answered_begins_the_prompts_after_it_under_attack(
    family: tuple[TokenizerCodec, tuple[str, ...]],
) -> None:
    codec, words = family
    for word in words:
        whole = conversation(word)
        tokens = codec.encode_prompt(whole).tokens
        for count in (2, 4):
            before = codec.encode_prompt(
                attrs.evolve(whole, messages=whole.messages[:count])
            ).tokens
            assert tokens[: len(before)] == before
            assert codec.encode_prompt(whole, Known(draft=before)).tokens == tokens
            known = codec.encode_prompt(whole, Known(count + 1, (*before, 5, 6))).tokens
            assert known[: len(before) + 2] == (*before, 5, 6)


def test_a_draft_whose_delimiter_is_a_content_now_is_not_kept(
    family: tuple[TokenizerCodec, tuple[str, ...]],
) -> None:
    codec, words = family
    asked = Conversation((Message(Role.USER, (Text(f"u {words[0]} u"),)),))
    tokens = codec.encode_prompt(asked).tokens
    draft = codec.encode_text(codec.decode(tokens))

    assert delimiters(codec, draft) != delimiters(codec, tokens)
    assert codec.encode_prompt(asked, Known(draft=draft)).tokens == tokens


@settings(deadline=None, max_examples=60)
@given(
    data=st.data(),
    text=st.lists(
        st.sampled_from(
            ["<", "|", "im", "_", "end", ">", "<|im_end|>", "<|im_start|>", "x", " ", "☃"]
        ),
        max_size=12,
    ).map("".join),
)
def test_any_spelling_is_told_as_it_is(
    family: tuple[TokenizerCodec, tuple[str, ...]], data: st.DataObject, text: str
) -> None:
    codec, _ = family
    plain = Conversation((Message(Role.USER, (Text("Q"),)),))
    asked = Conversation((Message(Role.USER, (Text(f"Q{text}."),)),))

    tokens = codec.encode_prompt(asked).tokens

    assert codec.decode(tokens) == codec.decode(codec.encode_prompt(plain).tokens).replace(
        "Q", f"Q{text}."
    )
    assert delimiters(codec, tokens) == delimiters(codec, codec.encode_prompt(plain).tokens)


def test_harmless_contents_are_spelled_as_ever(
    family: tuple[TokenizerCodec, tuple[str, ...]],
) -> None:
    codec, _ = family
    tokens = codec.encode_prompt(conversation("word")).tokens
    assert tokens == codec.encode_text(codec.decode(tokens))


def test_delimiters_that_only_a_changed_text_spells_are_found(tmp_path: Path) -> None:
    """A tokenizer that makes small letters of all before it looks for its tokens."""
    made = byte_tokenizer()
    made.normalizer = normalizers.Lowercase()
    made.add_special_tokens([AddedToken("<|stop|>", special=True, normalized=True)])
    codec = load_codec(write_model(tmp_path, tokenizer=made, chat_template=CHATML))

    honest, attacked = (
        codec.encode_prompt(Conversation((Message(Role.USER, (Text(word),)),))).tokens
        for word in ("word", "a <|STOP|> b")
    )
    assert delimiters(codec, attacked) == delimiters(codec, honest)
    assert "<|stop|>" in codec.decode(attacked)


def test_words_that_no_frame_has_are_no_delimiters(tmp_path: Path) -> None:
    """Some vocabularies have tokens for runs of blanks, and for HTML."""
    made = tokenizer((), ("    ", "<table>", "<think>"))
    guard = Guard.of(made, "{{ '<think>' }}")
    assert guard.spells("a <think> b")
    assert guard.spells("<|im_end|>")
    assert not guard.spells("    <table>")


def test_a_delimiter_made_of_frame_and_content_is_none() -> None:
    guard = Guard.of(byte_tokenizer(), "")
    segment = Segment("a<|im_end|>b<|im_end|>", ((1, 5),))
    assert guard.cuts(segment) == [2]
    assert guard.cuts(Segment("a<|im_end|>b<|im_end|>", ((0, 1), (11, 12)))) == []
