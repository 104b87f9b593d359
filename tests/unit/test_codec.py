"""Conversations to token ids: exactly what the template says, once."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, normalizers, pre_tokenizers

from semantic_trio.adapters.text import segments
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.guard import NO_GUARD, Segment
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.adapters.text.segments import SegmentEncoder
from semantic_trio.domain.conversation import Conversation, Message, Role, Text, Thinking
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.prompt import Known
from tests.vocabulary import (
    BYTES,
    CHATML,
    END,
    START,
    beginning_with,
    byte_tokenizer,
    fallback_tokenizer,
    write_model,
)

HELLO = Conversation((Message(Role.USER, (Text("hi"),)),))


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load_codec(write_model(tmp_path_factory.mktemp("model")))


def text_of(codec: TokenizerCodec, tokens: tuple[int, ...]) -> str:
    names = {START: "<|im_start|>", END: "<|im_end|>"}
    decoder = codec.decoder()
    return "".join(names.get(token) or decoder.push(token) for token in tokens) + decoder.flush()


def test_a_prompt_is_the_template_up_to_where_the_assistant_speaks(codec: TokenizerCodec) -> None:
    assert (
        text_of(codec, codec.encode_prompt(HELLO).tokens)
        == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


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

    assert (
        len(load_codec(write_model(tmp_path, tokenizer=tokenizer)).encode_text("longer than four"))
        == 16
    )


@given(
    st.text(alphabet=st.one_of(st.characters(), st.integers(0xD800, 0xDFFF).map(chr)), max_size=40)
)
def test_any_text_of_a_request_can_be_encoded(codec: TokenizerCodec, text: str) -> None:
    """JSON may carry halves of surrogate pairs; two halves make a whole, one becomes U+FFFD."""
    expected = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    assert text_of(codec, codec.encode_text(text)) == expected


def test_every_id_that_ends_a_turn_is_a_stop_token(tmp_path: Path) -> None:
    write_model(tmp_path, eos_token_id=[5, 6], text_config={"eos_token_id": 7})
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 8}')

    assert load_codec(tmp_path).stop_tokens == {5, 6, 7, 8, END}


EARLY = "{{ '<|im_start|>system\nThink!<|im_end|>\n' if enable_thinking }}" + CHATML


@pytest.mark.parametrize(("chat_template", "thinking"), [(EARLY, (True, None, 50)), (CHATML, None)])
def test_a_prompt_says_which_choice_of_thinking_stands_in_its_front(
    tmp_path: Path, chat_template: str, thinking: object
) -> None:
    codec = load_codec(write_model(tmp_path, chat_template=chat_template))

    assert (
        codec.encode_prompt(Conversation(HELLO.messages, thinks=True, thought_budget=50)).thinking
        == thinking
    )


def test_a_model_without_a_chat_template_takes_texts_and_no_conversations(tmp_path: Path) -> None:
    codec = load_codec(write_model(tmp_path, chat_template=None))

    assert codec.encode_text("hi")
    with pytest.raises(InvalidRequestError, match="no chat template"):
        codec.encode_prompt(HELLO)


def test_without_a_chat_template_answers_are_read_all_the_same(tmp_path: Path) -> None:
    codec = load_codec(write_model(tmp_path, chat_template=None))

    assert codec.reader(HELLO, "").push("<think>hm</think>so") == [Thinking("hm"), Text("so")]


# ------------------------------------------------------------------------------- segments and seams


def steered(tokenizer: Tokenizer, *, takes_blanks: bool = False) -> Tokenizer:
    """The tokenizer with the two tokens that steer."""
    names = ("<|im_start|>", "<|im_end|>")
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False, rstrip=takes_blanks) for name in names]
    )
    return tokenizer


def taking_blanks() -> Tokenizer:
    """Its special tokens swallow the blanks after them."""
    return steered(fallback_tokenizer(), takes_blanks=True)


def prepending() -> Tokenizer:
    """Puts a space in front of every text, and again after every special token."""
    tokenizer = fallback_tokenizer()
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    return steered(tokenizer)


def prepending_first() -> Tokenizer:
    """Puts a space in front of a text, and nowhere else."""
    tokenizer = fallback_tokenizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    return steered(tokenizer)


TURNS = (
    Message(Role.USER, (Text("a b\n"),)),
    Message(Role.ASSISTANT, (Text("ab"),)),
    Message(Role.USER, (Text(" ba "),)),
)


@pytest.mark.parametrize("tokenizer", [byte_tokenizer, prepending, prepending_first, taking_blanks])
def test_a_prompt_in_segments_is_what_it_would_be_at_once(
    tokenizer: Callable[[], Tokenizer], tmp_path: Path
) -> None:
    codec = load_codec(write_model(tmp_path, tokenizer=tokenizer()))
    text = (
        "<|im_start|>user\na "
        "b\n<|im_end|>\n<|im_start|>assistant\nab<|im_end|>\n<|im_start|>user\n ba "
        "<|im_end|>\n<|im_start|>assistant\n"
    )

    whole = codec.encode_prompt(Conversation(TURNS)).tokens

    assert whole == tuple(tokenizer().encode(text, add_special_tokens=False).ids)
    for draft in (whole, whole[:20], (*whole[:20], 99), whole[3:]):
        assert codec.encode_prompt(Conversation(TURNS), Known(draft=draft)).tokens == whole
    known = codec.encode_prompt(Conversation(TURNS), Known(2, (7, 8), (9,))).tokens
    ended = [at for at, token in enumerate(whole) if token == codec.encode_text("<|im_end|>")[-1]]
    assert known == (7, 8, *whole[ended[1] :])


def test_where_texts_cannot_be_joined_anywhere_they_are_at_special_tokens() -> None:
    assert SegmentEncoder(byte_tokenizer(), NO_GUARD).is_seamless
    assert not SegmentEncoder(prepending(), NO_GUARD).is_seamless


@pytest.fixture(
    scope="module", params=[CHATML, CHATML.replace("<|im_start|>", "[").replace("<|im_end|>", "]")]
)
def with_or_without(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> TokenizerCodec:
    """With and without special tokens between messages."""
    return load_codec(write_model(tmp_path_factory.mktemp("model"), chat_template=request.param))


@given(
    texts=st.lists(
        st.text(
            alphabet=st.one_of(st.characters(), st.integers(0xD800, 0xDFFF).map(chr)), max_size=12
        ),
        min_size=1,
        max_size=4,
    )
)
def test_hostile_texts_move_nothing(with_or_without: TokenizerCodec, texts: list[str]) -> None:
    codec = with_or_without
    messages = tuple(Message(Role.USER, (Text(text),), Rank.MARKED) for text in texts)
    whole = codec.encode_prompt(Conversation(messages))

    assert len(whole.breakpoints) == len(texts)
    for count in range(1, len(texts) + 1):
        part = codec.encode_prompt(Conversation(messages[:count]))
        assert part.breakpoints == whole.breakpoints[:count]
        assert (
            part.tokens[: part.breakpoints[-1].position]
            == whole.tokens[: part.breakpoints[-1].position]
        )


def test_special_tokens_that_are_delimiters_are_text_and_others_are_not(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False)
            for token in ("<think>", "</think>", "<other>")
        ]
    )
    codec = load_codec(write_model(tmp_path, tokenizer=tokenizer))
    decoder = codec.decoder()

    told = (
        "".join(
            map(decoder.push, codec.encode_text("<|im_start|><think>hm</think><other>so<|im_end|>"))
        )
        + decoder.flush()
    )

    assert told == "<think>hm</think>so"


def test_long_segments_are_tokenised_once(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = SegmentEncoder(byte_tokenizer(), NO_GUARD)
    long = "a" * segments.CACHED_CHARACTERS
    first = encoder.encode([Segment(long), Segment("b")], begins=False)
    [again] = encoder.encode([Segment(long)], begins=False)
    monkeypatch.setattr(segments, "MOST_CACHED_CHARACTERS", 2 * segments.CACHED_CHARACTERS)

    assert again is first[0]
    encoder.encode([Segment("b" + long), Segment("c" + long)], begins=False)
    assert encoder.encode([Segment(long)], begins=False)[0] is not again, (
        "what was used least recently is given up"
    )


@pytest.mark.parametrize("damage", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_files_that_cannot_be_read_are_a_model_that_cannot_be_served(
    damage: str, tmp_path: Path
) -> None:
    (write_model(tmp_path) / damage).write_text("{")

    with pytest.raises(ModelNotFoundError, match="tokenizer cannot be loaded"):
        load_codec(tmp_path)


def test_a_directory_without_a_tokenizer_is_a_model_that_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError):
        load_codec(tmp_path)


def test_the_model_library_is_not_needed_to_read_and_write_text() -> None:
    """A codec works on any thread; MLX belongs to one."""
    script = "import sys, semantic_trio.adapters.text.loading; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


# -------------------------------------------------------------------------------------- fingerprint


def fingerprint_of(directory: Path, **fields: object) -> str:
    directory.mkdir()
    return load_codec(write_model(directory, **fields)).fingerprint  # type: ignore[arg-type]


def test_the_same_files_in_another_place_have_the_same_fingerprint(tmp_path: Path) -> None:
    assert fingerprint_of(tmp_path / "one") == fingerprint_of(tmp_path / "two")


def test_the_fingerprint_does_not_depend_on_the_process(tmp_path: Path) -> None:
    ours = fingerprint_of(tmp_path / "model")
    code = (
        "import sys, pathlib, semantic_trio.adapters.text.loading as loading; "
        "print(loading.load_codec(pathlib.Path(sys.argv[1])).fingerprint)"
    )

    theirs = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "model")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert theirs.strip() == ours


def other_special() -> Tokenizer:
    """The tokenizer with one special token more."""
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<|extra|>", special=True)])
    return tokenizer


def other_beginning() -> Tokenizer:
    """The tokenizer that puts a token first."""
    tokenizer = byte_tokenizer()
    tokenizer.post_processor = beginning_with("<|im_start|>", START)
    return tokenizer


def other_words() -> Tokenizer:
    """The tokenizer that cuts its text otherwise."""
    tokenizer = byte_tokenizer()
    tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


@pytest.mark.parametrize(
    "change",
    [
        {"chat_template": CHATML.replace("\n", " ")},
        {"chat_template": None},
        {"eos_token_id": [5, 6]},
        {"tokenizer": other_special()},
        {"tokenizer": other_beginning()},
        {"tokenizer": other_words()},
    ],
    ids=["template", "no template", "stop tokens", "special token", "beginning", "normalizer"],
)
def test_another_tokenizer_template_or_special_token_is_another_fingerprint(
    change: dict[str, object], tmp_path: Path
) -> None:
    assert fingerprint_of(tmp_path / "one", **change) != fingerprint_of(tmp_path / "two")


def test_weights_are_no_part_of_the_fingerprint(tmp_path: Path) -> None:
    before = fingerprint_of(tmp_path / "model")
    (tmp_path / "model" / "model.safetensors").write_bytes(b"weights")

    assert load_codec(tmp_path / "model").fingerprint == before


# ------------------------------------------------------------------------------ templates that fail

PARTS_ONLY = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' }}{% for part in "
    "message.content %}{{ part.text }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for %}", "Expected"),
        ("{{ raise_exception('not today') }}", "not today"),
        ("nothing of it", "leaves out"),
    ],
)
def test_a_template_that_does_not_work_is_told_at_the_start(
    template: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError, match=reason) as caught:
        load_codec(write_model(tmp_path, chat_template=template))
    assert "chat_template.jinja" in str(caught.value)


def test_a_template_that_takes_parts_is_given_parts(tmp_path: Path, codec: TokenizerCodec) -> None:
    talk = Conversation((Message(Role.SYSTEM, (Text("s"),)), *TURNS))
    parts = load_codec(write_model(tmp_path, chat_template=PARTS_ONLY))

    assert parts.encode_prompt(talk) == codec.encode_prompt(talk)


def test_a_template_that_writes_the_time_writes_the_same_one_each_time(tmp_path: Path) -> None:
    """A front that changes, be it once a day, is read again by every conversation."""
    timed = (
        "{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}{% for message in messages %}{{ message.content "
        "}}{% endfor %}"
    )
    codec = load_codec(write_model(tmp_path, chat_template=timed))
    conversation = Conversation((Message(Role.USER, (Text("go on"),)),))
    first = codec.encode_prompt(conversation)

    assert codec.encode_prompt(conversation) == first
