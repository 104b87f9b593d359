"""Tokenizers that come without tokenizer.json: tiktoken's layout, SentencePiece's, and programs,
which are never executed.
"""

import base64
import json
from pathlib import Path

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.conversation import Conversation, Message, Role, Text
from semantic_trio.domain.errors import ModelNotFoundError
from tests.vocabulary import CHATML, write_model

TEXTS = [
    "The sea, the sea.",
    " two  spaces\n\n  and lines\r\n",
    "it's HE'LL 12345",
    "\u4e2d\u6587 sea\u6d77 \u65e5\u672c\u8a9e",
    "\N{GRINNING FACE} \N{SNOWMAN}",
    "",
    "\t\x00\x7f",
]
PATTERNS = [r"[\p{Han}]+", r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}&&[^\p{Han}]]+(?i:'s|'ll)?"]
PATTERNS += [r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+"]
# Reading the program leaves it there; executing it would end the test's process.
PROGRAM = f"""
raise SystemExit("executed")

class KimiTokenizer(PreTrainedTokenizer):
    num_reserved_special_tokens = 6
    pat_str = "|".join({PATTERNS!r})
"""
# Bytes and what is merged of them, in the order of their ranks. "the" is made of "th" and "e" or
# of "t" and "he"; the one whose rank is lower comes first.
WORDS = [b"he", b"th", b"the", b" the", b"se", b" s", b"sea", b"a,", b" sea", b"  ", b"12"]
WORDS += [b"\xe4\xb8", b"\xe4\xb8\xad", b"\xf0\x9f", b"'s"]
RANKS = {
    token: rank for rank, token in enumerate([*(bytes([byte]) for byte in range(256)), *WORDS])
}
BOS, EOS, END = len(RANKS), len(RANKS) + 1, len(RANKS) + 6


def write_tiktoken(directory: Path, program: str = PROGRAM, **config: object) -> Path:
    """A directory as Kimi's are."""
    write_model(directory, vocab_size=END, bos_token_id=BOS, eos_token_id=EOS)
    (directory / "tokenizer.json").unlink()
    lines = [f"{base64.b64encode(token).decode()} {rank}" for token, rank in RANKS.items()]
    (directory / "tiktoken.model").write_text("\n".join(lines) + "\n")
    (directory / "tokenization_kimi.py").write_text(program)
    named = {BOS: "[BOS]", EOS: "<|im_end|>", BOS + 3: "<|im_start|>"}
    said = {
        "auto_map": {"AutoTokenizer": ["tokenization_kimi.KimiTokenizer", None]},
        "tokenizer_class": "KimiTokenizer",
        "bos_token": "[BOS]",
        "eos_token": "<|im_end|>",
        "added_tokens_decoder": {
            str(number): {"content": content, "special": True} for number, content in named.items()
        },
    }
    (directory / "tokenizer_config.json").write_text(json.dumps(said | config))
    (directory / "chat_template.jinja").write_text(CHATML)
    return directory


def merged(piece: bytes) -> list[int]:
    """Ranks of a piece, merged as tiktoken does: the pair of the lowest rank first, of several the
    leftmost.
    """
    parts = [bytes([byte]) for byte in piece]
    while True:
        pairs = [
            (RANKS.get(a + b, END), at)
            for at, (a, b) in enumerate(zip(parts, parts[1:], strict=False))
        ]
        rank, at = min(pairs, default=(END, 0))
        if rank == END:
            return [RANKS[part] for part in parts]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]


def expected(text: str) -> tuple[int, ...]:
    pieces = regex.findall("|".join(PATTERNS), text, flags=regex.V1)
    assert "".join(pieces) == text
    return tuple(token for piece in pieces for token in merged(piece.encode()))


@pytest.fixture(scope="module")
def tiktoken(tmp_path_factory: pytest.TempPathFactory) -> TokenizerCodec:
    return load_codec(write_tiktoken(tmp_path_factory.mktemp("kimi")))


@pytest.mark.parametrize("text", TEXTS)
def test_a_tiktoken_layout_has_the_tokens_of_tiktoken(tiktoken: TokenizerCodec, text: str) -> None:
    tokens = tiktoken.encode_text(text)

    assert tokens == expected(text)
    assert tiktoken.decode(tokens) == text


@given(text=st.text(alphabet="the sa,'\n12\u4e2d\u6d77 HES\N{SNOWMAN}"))
@settings(max_examples=200, deadline=None)
def test_every_text_survives_a_tiktoken_layout(tiktoken: TokenizerCodec, text: str) -> None:
    tokens = tiktoken.encode_text(text)

    assert tokens == expected(text)
    assert tiktoken.decode(tokens) == text


def test_the_tokens_of_a_tiktoken_layout_are_these(tiktoken: TokenizerCodec) -> None:
    assert tiktoken.encode_text("The sea, the sea.") == (84, 256, 264, 44, 259, 264, 46)
    assert tiktoken.encode_text("<|im_start|>sea") == (BOS + 3, 262)


def test_a_tiktoken_layout_has_a_token_for_every_reserved_id(tiktoken: TokenizerCodec) -> None:
    assert [tiktoken.decode([number]) for number in range(BOS, END)] == [
        "[BOS]",
        "<|im_end|>",
        f"<|reserved_token_{BOS + 2}|>",
        "<|im_start|>",
        f"<|reserved_token_{BOS + 4}|>",
        f"<|reserved_token_{BOS + 5}|>",
    ]
    assert tiktoken.decode([END]) == ""
    assert tiktoken.stop_tokens == {EOS}


def test_the_chat_template_beside_a_tiktoken_layout_is_used(tiktoken: TokenizerCodec) -> None:
    prompt = tiktoken.encode_prompt(Conversation((Message(Role.USER, (Text("sea"),)),)))

    assert prompt.tokens[0] == BOS + 3
    assert tiktoken.decode(prompt.tokens) == (
        "<|im_start|>user\nsea<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("x = 1", "has a constant pat_str"),
        ("pat_str = find()", "malformed node"),
        ("pat_str = (", "was never closed"),
        (r"pat_str = r'\p{N}{1,3}+|.'", r"pat_str has \{1,3\}\+, which is read otherwise"),
        (r"pat_str = r'[^\S\n]+$|.'", r"pat_str has \$, which is read otherwise"),
        (f"{PROGRAM}\n    num_reserved_special_tokens = 2000000", "has 2,000,271 tokens"),
    ],
)
def test_a_tiktoken_layout_whose_program_says_too_little_is_refused(
    tmp_path: Path, program: str, reason: str
) -> None:
    with pytest.raises(ModelNotFoundError, match=reason) as caught:
        load_codec(write_tiktoken(tmp_path, program))

    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "pattern", [r"[\p{L}&&[^\p{Han}$]]+", r"\p{Nd}++\$", r"[{2}+^]{2}", r"\x{41}+"]
)
def test_a_pattern_with_the_same_meaning_to_both_libraries_is_read(
    tmp_path: Path, pattern: str
) -> None:
    directory = write_tiktoken(tmp_path, f"pat_str = {f'{pattern}|.'!r}")

    codec = load_codec(directory)

    assert codec.decode(codec.encode_text("sea")) == "sea"


def test_a_tiktoken_layout_without_a_token_for_each_byte_is_refused(tmp_path: Path) -> None:
    directory = write_tiktoken(tmp_path)
    (directory / "tiktoken.model").write_text("YQ== 0\nYg== 1\n")

    with pytest.raises(ModelNotFoundError, match="no token for 254 of the 256 bytes"):
        load_codec(directory)


def test_a_tiktoken_layout_with_gaps_or_equal_names_is_refused(tmp_path: Path) -> None:
    twice = {str(BOS): {"content": "[BOS]"}, str(BOS + 1): {"content": "[BOS]"}}
    with pytest.raises(ModelNotFoundError, match="one name"):
        load_codec(write_tiktoken(tmp_path / "twice", added_tokens_decoder=twice))
    gap = write_tiktoken(tmp_path / "gap")
    (gap / "tiktoken.model").write_text("YQ== 0\nYg== 2\n")
    with pytest.raises(ModelNotFoundError, match="have gaps"):
        load_codec(gap)


# ----------------------------------------------------------------------------------- SentencePiece


def write_sentencepiece(directory: Path) -> Path:
    """A directory of a Llama with nothing but tokenizer.model."""
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at import
    kinds = model.SentencePiece
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for byte in range(256):
        model.pieces.add(piece=f"<0x{byte:02X}>", score=0.0, type=kinds.BYTE)
    words = ["\u2581t", "he", "\u2581the", "se", "sea", "\u2581sea", "\u2581\u2581"]
    letters = sorted({*"\u2581".join(["thesaTo two,.\u6d77"])} | {"\u2581"})
    for rank, piece in enumerate([*words, *letters]):
        model.pieces.add(piece=piece, score=-float(rank), type=kinds.NORMAL)
    model.trainer_spec.model_type = model.trainer_spec.BPE
    model.trainer_spec.byte_fallback = True
    model.trainer_spec.vocab_size = len(model.pieces)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = False
    write_model(directory, vocab_size=len(model.pieces), bos_token_id=1, eos_token_id=2)
    (directory / "tokenizer.json").unlink()
    (directory / "tokenizer.model").write_bytes(model.SerializeToString())
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, **special})
    )
    return directory


@pytest.fixture(scope="module")
def sentencepiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentencepiece(tmp_path_factory.mktemp("llama"))


# Without a zero byte, which ends a text for SentencePiece, and without a blank at the front, before
# which the tokenizers library puts no other.
@pytest.mark.parametrize("text", [text.lstrip() for text in TEXTS if "\x00" not in text])
def test_a_sentencepiece_model_has_the_tokens_of_sentencepiece(
    sentencepiece: Path, text: str
) -> None:
    codec = load_codec(sentencepiece)
    reference = SentencePieceProcessor(model_file=str(sentencepiece / "tokenizer.model"))
    tokens = codec.encode_text(text)

    assert tokens == (1, *reference.encode(text))
    assert codec.decode(tokens[1:]).removeprefix(" ") == text
    assert [codec.decode([reference.get_piece_size() - one]) for one in (1, 0)] == ["\u6d77", ""]
    assert codec.stop_tokens == {2}


def test_the_tokens_of_a_sentencepiece_model_are_these(sentencepiece: Path) -> None:
    tokens = load_codec(sentencepiece).encode_text("the sea\u2603")

    assert tokens == (1, 261, 264, 3 + 0xE2, 3 + 0x98, 3 + 0x83)


# ---------------------------------------------------------------------------------------- programs


def write_program(directory: Path) -> Path:
    """A directory whose tokenizer is a program beside SentencePiece's file."""
    write_sentencepiece(directory)
    (directory / "tokenization_own.py").write_text(PROGRAM)
    said = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}, "eos_token": "</s>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(said))
    return directory


def test_a_program_is_refused_in_one_line_and_not_executed(tmp_path: Path) -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"the program tokenization_own\.Own, which is not executed"
    ) as caught:
        load_codec(write_program(tmp_path))

    assert "\n" not in str(caught.value)


def test_a_program_beside_a_tokenizer_json_is_not_needed(tmp_path: Path) -> None:
    codec = load_codec(write_model(tmp_path))
    file = tmp_path / "tokenizer_config.json"
    (tmp_path / "tokenization_own.py").write_text(PROGRAM)
    said = {"auto_map": {"AutoTokenizer": ["tokenization_own.Own", None]}}
    file.write_text(json.dumps(json.loads(file.read_text()) | said | {"tokenizer_class": "Own"}))

    again = load_codec(tmp_path)

    assert again.encode_text("sea") == codec.encode_text("sea")
    assert again.fingerprint == codec.fingerprint
