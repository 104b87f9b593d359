"""Tokenizers in tiktoken's layout (Kimi): ranks of byte pairs in a file, the rest in a program.

The program is read and never executed: what is needed of it are two of its constants. Knows the
layout. Knows nothing of chat templates.
"""

import ast
import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

RANKS = "tiktoken.model"
# Constants of the program: how a text is cut before its bytes are merged, and how many tokens
# stand behind those of the ranks, named or not.
PATTERN, RESERVED = "pat_str", "num_reserved_special_tokens"
# Most tokens of a vocabulary: several times those of the largest that there are.
MOST_TOKENS = 1 << 20
# What the library of expressions here reads otherwise than tiktoken's: `$` and `^` match at every
# line, and the plus of `{1,3}+` repeats.
MISREAD = re.compile(r"[$^]|\{[0-9]*,?[0-9]*\}\+")
ESCAPED, CLASS = re.compile(r"\\(?:[pPx]\{[^}]*\}|.)", re.DOTALL), re.compile(r"\[[^\[\]]*\]")

Ranks = Mapping[bytes, int]


def has_tiktoken_layout(path: Path) -> bool:
    """True if a directory has ranks, and no tokenizer that was converted from them."""
    return (path / RANKS).is_file() and not (path / "tokenizer.json").is_file()


def tiktoken_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a directory in this layout.

    Raises `ValueError` where something is missing or cannot be read.
    """
    ranks, constants = _ranks(path / RANKS), _constants(path)
    pattern, reserved = constants.get(PATTERN), constants.get(RESERVED, 0)
    if not isinstance(pattern, str) or not isinstance(reserved, int):
        raise ValueError(f"no tokenization_*.py beside {RANKS} has a constant {PATTERN}")
    _refuse_misread(pattern)
    tokenizer = Tokenizer(_model(ranks))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    named = _named_tokens(path)
    end = max(len(ranks) + reserved, *(number + 1 for number in named), 0)
    if end > MOST_TOKENS:
        raise ValueError(f"it has {end:,} tokens; {MOST_TOKENS:,} can be read")
    tokenizer.add_tokens(
        [
            named.get(number, _added(f"<|reserved_token_{number}|>"))
            for number in range(len(ranks), end)
        ]
    )
    if tokenizer.get_vocab_size() != end:
        raise ValueError("two of its tokens have one name")
    return tokenizer


def _ranks(file: Path) -> Ranks:
    """Return the rank of each token: a line has its bytes in base64, and the rank."""
    lines = (line.split() for line in file.read_bytes().splitlines() if line)
    ranks = {base64.b64decode(token, validate=True): int(rank) for token, rank in lines}
    if sorted(ranks.values()) != list(range(len(ranks))):
        raise ValueError(f"the ranks of {RANKS} have gaps")
    if missing := [byte for byte in range(0x100) if bytes([byte]) not in ranks]:
        raise ValueError(f"{RANKS} has no token for {len(missing)} of the 256 bytes")
    return ranks


def _refuse_misread(pattern: str) -> None:
    """Raise `ValueError` for an expression that would cut texts otherwise than tiktoken does."""
    plain = ESCAPED.sub("a", pattern)
    while (outer := CLASS.sub("a", plain)) != plain:  # the innermost class first
        plain = outer
    if found := MISREAD.search(plain):
        raise ValueError(f"{PATTERN} has {found[0]}, which is read otherwise here")


def _model(ranks: Ranks) -> models.BPE:
    """Return the model that merges the pair first whose bytes together have the lowest rank."""
    letters = _letters()

    def spelt(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    merges = [
        (spelt(token[:cut]), spelt(token[cut:]))
        for token in sorted(ranks, key=ranks.__getitem__)
        for cut in _cuts(token, ranks)
    ]
    vocabulary = {spelt(token): rank for token, rank in ranks.items()}
    return models.BPE(vocab=vocabulary, merges=merges, ignore_merges=True)


def _cuts(token: bytes, ranks: Ranks) -> list[int]:
    """Return where a token can be cut into two others."""
    cuts = (cut for cut in range(1, len(token)) if token[:cut] in ranks and token[cut:] in ranks)
    return sorted(cuts, key=lambda cut: (ranks[token[:cut]], ranks[token[cut:]]))


def _letters() -> list[str]:
    """Return the character that stands for each byte in a vocabulary of bytes."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = iter(range(0x100, 0x200))
    return [chr(byte if byte in printable else next(others)) for byte in range(0x100)]


def _named_tokens(path: Path) -> dict[int, AddedToken]:
    """Return the tokens that tokenizer_config.json names, by their ids."""
    config = json.loads((path / "tokenizer_config.json").read_text())
    return {
        int(number): _added(token["content"], is_special=bool(token.get("special", True)))
        for number, token in (config.get("added_tokens_decoder") or {}).items()
    }


def _added(content: str, *, is_special: bool = True) -> AddedToken:
    return AddedToken(content, special=is_special, normalized=False)


def _constants(path: Path) -> dict[str, object]:
    """Return the constants of the tokenizer's program, of its module and of its classes."""
    return {
        name: value
        for file in sorted(path.glob("tokenization_*.py"))
        for node in ast.walk(ast.parse(file.read_text()))
        for name, value in _assigned(node)
    }


def _assigned(node: ast.AST) -> Iterator[tuple[str, object]]:
    match node:
        case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in {PATTERN, RESERVED}:
            yield name, _constant(value)


def _constant(value: ast.expr) -> object:
    """Return a literal, or what a literal text joins. Raises `ValueError` for all else."""
    match value:
        case ast.Call(
            func=ast.Attribute(value=ast.Constant(value=str(between)), attr="join"), args=[parts]
        ):
            return between.join(ast.literal_eval(parts))
    return ast.literal_eval(value)
