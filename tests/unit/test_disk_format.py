"""A file says what it is, and nothing but what was written is ever read from one."""

import errno
import json
import os
import re
import struct
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import xxhash
from hypothesis import given
from safetensors import SafetensorError

from semantic_trio.adapters.disk import format as file_format
from semantic_trio.adapters.disk.format import FORMAT, Label, read, write
from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.domain.content import Content, Tensor

LABEL = Label("block", "ab" * 32, "f" * 64, "tiny")
SIZES = {
    "BOOL": 1,
    "U8": 1,
    "I8": 1,
    "F16": 2,
    "BF16": 2,
    "U16": 2,
    "I16": 2,
    "F32": 4,
    "U32": 4,
    "I32": 4,
    "F64": 8,
    "I64": 8,
    "U64": 8,
    "C64": 8,
}
SHAPES = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@st.composite
def tensors(draw: st.DrawFn) -> Tensor:
    dtype, shape = draw(st.sampled_from(sorted(SIZES))), draw(SHAPES)
    count = SIZES[dtype]
    for size in shape:
        count *= size
    return Tensor(dtype, shape, memoryview(draw(st.binary(min_size=count, max_size=count))))


CONTENTS = st.dictionaries(
    st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__"),
    tensors(),
    max_size=5,
)


def plain(content: Content) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        name: (tensor.dtype, tensor.shape, bytes(tensor.data)) for name, tensor in content.items()
    }


def row(numbers: bytes, dtype: str = "U8") -> Tensor:
    return Tensor(dtype, (len(numbers) // SIZES[dtype],), memoryview(numbers))


def header(file: Path) -> dict[str, Any]:
    content = file.read_bytes()
    found: dict[str, Any] = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    return found


def forge(file: Path, front: bytes, data: bytes = b"") -> None:
    """A file with a checksum that is right, whatever else is in it: the digits go where there are
    32 zeros.
    """
    content = struct.pack("<Q", len(front)) + front + data
    file.write_bytes(content.replace(b"0" * 32, xxhash.xxh3_128_hexdigest(content).encode(), 1))


def forged(entries: object, data: bytes = b"", **metadata: str) -> tuple[bytes, bytes]:
    own = {
        "format": FORMAT,
        "kind": "block",
        "name": LABEL.name,
        "fingerprint": LABEL.fingerprint,
        "model": "tiny",
        "checksum": "0" * 32,
    }
    return json.dumps(
        {"__metadata__": own | metadata} | entries if isinstance(entries, dict) else entries
    ).encode(), data


def entry(
    dtype: str = "U8", shape: object = (2,), at: object = (0, 2)
) -> dict[str, dict[str, object]]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": at}}


def refusal(file: Path) -> str:
    with pytest.raises(UnfitError) as refused:
        read(file, "block", LABEL.fingerprint)
    assert str(refused.value).isascii()
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 500
    return str(refused.value)


@given(content=CONTENTS)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, content: Content
) -> None:
    """Numbers without a dimension, dimensions without a number, and numbers numpy does not know."""
    file = tmp_path_factory.getbasetemp() / "file"
    write(file, LABEL, content)

    name, found = read(file, "block", LABEL.fingerprint)

    assert (name, plain(found)) == (LABEL.name, plain(content))


def test_a_file_says_what_it_is(tmp_path: Path) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"ab")})

    metadata = header(tmp_path / "file")["__metadata__"]

    assert re.fullmatch("[0-9a-f]{32}", metadata.pop("checksum"))
    assert metadata == {
        "format": "semantic_trio/1",
        "kind": "block",
        "name": "ab" * 32,
        "fingerprint": "f" * 64,
        "model": "tiny",
    }


def test_its_checksum_is_that_of_the_file_with_zeros_in_its_place(tmp_path: Path) -> None:
    write(tmp_path / "file", LABEL, {"a": row(bytes(3_000_000))})
    checksum, content = (
        header(tmp_path / "file")["__metadata__"]["checksum"].encode(),
        (tmp_path / "file").read_bytes(),
    )

    assert content.count(checksum) == 1
    assert xxhash.xxh3_128_hexdigest(content.replace(checksum, b"0" * 32)).encode() == checksum


def test_numbers_numpy_does_not_know_travel_as_others_of_their_size(tmp_path: Path) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"abcd", "BF16"), "b": row(b"abcd", "F16")})

    found = header(tmp_path / "file")

    assert (found["a"]["dtype"], found["b"]["dtype"]) == ("U16", "F16")
    assert json.loads(found["__metadata__"]["dtypes"]) == {"a": "BF16"}


def test_a_model_may_have_any_name(tmp_path: Path) -> None:
    write(tmp_path / "file", Label("block", "n", "f", 'a"checksum":"\udcff\n\u2028'), {})

    assert read(tmp_path / "file", "block", "f") == ("n", {})


def test_what_is_read_is_the_one_buffer_that_was_checked_and_stays_as_it_is(tmp_path: Path) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"ab"), "b": row(b"cd")})

    _, found = read(tmp_path / "file", "block", LABEL.fingerprint)

    assert found["a"].data.obj is found["b"].data.obj
    assert found["a"].data.readonly


@pytest.mark.parametrize(
    ("kind", "fingerprint", "reason"),
    [
        ("mark", LABEL.fingerprint, "is a block, not a mark"),
        ("block", "e" * 64, "is another model's: tiny"),
    ],
)
def test_a_file_of_something_else_is_told_from_a_damaged_one(
    tmp_path: Path, kind: str, fingerprint: str, reason: str
) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"ab")})

    with pytest.raises(UnfitError) as refused:
        read(tmp_path / "file", kind, fingerprint)

    assert str(refused.value) == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content[:5], "ends after 5 of at least "),
        (lambda content: content[:100], r"ends after 100 of at least \d{3}"),
        (lambda content: content[:-1], r"ends after \d+ of \d+ bytes"),
        (lambda content: content + b"xy", "goes on for 2 bytes after its end"),
        (lambda content: content[:-1] + b"x", "checksum is [0-9a-f]{32}, not [0-9a-f]{32}"),
        (lambda content: b"\xff" * 8 + content[8:], "has a header of 18446744073709551615 bytes"),
        (lambda content: content.replace(b'"checksum"', b'"checksun"'), "has 0 checksums"),
        (lambda content: content[:8] + b"[" + content[9:], "is no JSON: "),
        (lambda content: bytes(len(content)), "is no JSON: "),
        (lambda content: b"", "ends after 0 of at least 8 bytes"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, change: Any, reason: str) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"ab")})
    (tmp_path / "file").write_bytes(change((tmp_path / "file").read_bytes()))

    assert re.match(reason, refusal(tmp_path / "file"))


HOSTILE = {
    "nested too deep": (b"[" * 1_000_000, b""),
    "an object nested too deep": (b'{"a":' * 1_000_000, b""),
    "not an object": forged([]),
    "no JSON": (b"{", b""),
    "no UTF-8": (b'{"\xff": 1}', b""),
    "empty": (b"", b""),
    "a tensor twice": (
        forged(entry())[0][:-1] + b', "a": ' + json.dumps(entry()["a"]).encode() + b"}",
        b"ab",
    ),
    "metadata of numbers": forged({"__metadata__": {"kind": 1}}),
    "metadata of nothing": forged({"__metadata__": None}),
    "no metadata": forged({"__metadata__": {}}),
    "a number for a tensor": forged({"a": 1}),
    "half a surrogate pair in a field": forged({"a": {"\ud800": 1}}),
    "half a surrogate pair for a name": forged({"\ud800": 1}),
    "a field too much": forged({"a": {**entry()["a"], "b": 1}}, b"ab"),
    "a field too few": forged({"a": {"dtype": "U8", "shape": [2]}}, b"ab"),
    "an unknown kind of number": forged(entry(dtype="F13"), b"ab"),
    "numbers numpy does not know": forged(entry(dtype="BF16", shape=[1]), b"ab"),
    "a negative shape": forged(entry(shape=[-1, -2]), b"ab"),
    "a shape of truth": forged(entry(shape=[True, 2]), b"ab"),
    "a broken shape": forged(entry(shape=[2.0]), b"ab"),
    "no number in a shape": forged(entry(shape=[float("nan")]), b"ab"),
    "infinity in a shape": forged(entry(shape=[float("inf")]), b"ab"),
    "a shape of text": forged(entry(shape="2"), b"ab"),
    "a shape too large": forged(entry(shape=[1 << 53] * 64), b"ab"),
    "a number too large": forged(entry(shape=[10**4000]), b"ab"),
    "a number nobody parses": (b'{"a": ' + b"1" * 100_000 + b"}", b""),
    "dimensions without end": forged(entry(shape=[1] * 65, at=[0, 1]), b"a"),
    "a shape that needs more": forged(entry(shape=[3]), b"ab"),
    "a shape that needs less": forged(entry(shape=[1]), b"ab"),
    "an end before its beginning": forged(entry(at=[2, 0]), b"ab"),
    "a negative beginning": forged(entry(at=[-2, 0]), b"ab"),
    "offsets beyond the end": forged(entry(at=[2, 4]), b"ab"),
    "data after the last tensor": forged(entry(), b"abc"),
    "three offsets": forged(entry(at=[0, 2, 2]), b"ab"),
    "a gap": forged(entry() | {"b": entry(at=(3, 5))["a"]}, b"abcde"),
    "two in one place": forged(entry() | {"b": entry()["a"]}, b"ab"),
    "two that overlap": forged(entry() | {"b": entry(at=(1, 3))["a"]}, b"abc"),
    "two checksums": forged({"checksum": "0" * 32}),
    "a checksum of other digits": forged({}, checksum="A" * 32),
    "another format": forged({}, format="semantic_trio/2"),
    "another kind": forged({}, kind="\ud800" * 10_000),
    "true kinds that are no JSON": forged({}, dtypes="{"),
    "true kinds nested too deep": forged({}, dtypes="[" * 100_000),
    "true kinds of half a surrogate pair": forged({}, dtypes='{"a": "\ud800"}'),
    "true kinds that are numbers": forged({}, dtypes='{"a": 1}'),
    "the true kind of a tensor that is not there": forged(entry(), b"ab", dtypes='{"b": "BF16"}'),
    "a true kind of another size": forged(entry(), b"ab", dtypes='{"a": "BF16"}'),
    "a true kind nobody knows": forged(entry(dtype="U16", shape=[1]), b"ab", dtypes='{"a": "F13"}'),
}


@pytest.mark.parametrize("what", sorted(HOSTILE))
def test_a_file_with_a_right_checksum_may_hold_anything_and_is_refused(
    tmp_path: Path, what: str
) -> None:
    forge(tmp_path / "file", *HOSTILE[what])

    assert not refusal(tmp_path / "file").startswith("checksum")


def test_a_forged_file_that_is_right_is_read(tmp_path: Path) -> None:
    """The forger of the tests around: what is refused there is refused for what it holds."""
    forge(tmp_path / "file", *forged(entry(dtype="U16", shape=[1]), b"ab", dtypes='{"a": "BF16"}'))

    assert plain(read(tmp_path / "file", "block", LABEL.fingerprint)[1]) == {
        "a": ("BF16", (1,), b"ab")
    }


NUMBERS = st.integers(-3, 5) | st.integers() | st.floats()
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)
NEARLY = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["U8", "F32", "BF16", ""]),
        "shape": st.lists(NUMBERS, max_size=3),
        "data_offsets": st.lists(NUMBERS, max_size=3),
    }
)
HEADERS = (
    st.dictionaries(st.text(max_size=2) | st.just("__metadata__"), NEARLY | ANYTHING, max_size=4)
    | ANYTHING
)


@given(front=HEADERS, data=st.binary(max_size=8))
def test_whatever_a_header_says_there_is_one_error(
    tmp_path_factory: pytest.TempPathFactory, front: object, data: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "file"
    forge(file, *forged(front, data))

    try:
        read(file, "block", LABEL.fingerprint)
    except UnfitError:
        pass


@given(content=st.binary(max_size=64))
def test_whatever_a_file_holds_there_is_one_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    file = tmp_path_factory.getbasetemp() / "file"
    file.write_bytes(content)

    refusal(file)


def test_a_file_that_has_grown_beyond_all_memory_is_not_read(tmp_path: Path) -> None:
    """Nothing is asked for by the size of a file alone."""
    write(tmp_path / "file", LABEL, {"a": row(b"ab")})
    with (tmp_path / "file").open("ab") as file:
        file.truncate(4 * 10**12)

    assert refusal(tmp_path / "file").startswith("goes on for 3999")


def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "file", LABEL, {"a": row(b"ab")})
    size, real = (tmp_path / "file").stat().st_size, np.empty

    def shrink(*given: Any) -> Any:
        os.truncate(tmp_path / "file", size - 1)
        return real(*given)

    monkeypatch.setattr(np, "empty", shrink)

    assert refusal(tmp_path / "file") == f"ends after {size - 1} of {size} bytes"


def test_what_the_disk_refuses_is_an_os_error_with_its_number(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write(tmp_path / "nowhere" / "file", LABEL, {"a": row(b"ab")})


@pytest.mark.parametrize(
    ("text", "number"),
    [("No space left on device (os error 28)", errno.ENOSPC), ("something", errno.EIO)],
)
def test_a_full_disk_is_an_os_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, number: int
) -> None:
    def refuse(*given: object) -> None:
        raise SafetensorError(f"Error while serializing: I/O error: {text}")

    monkeypatch.setattr(file_format, "save_file", refuse)

    with pytest.raises(OSError, match=re.escape(text)) as refused:
        write(tmp_path / "file", LABEL, {"a": row(b"ab")})
    assert refused.value.errno == number
