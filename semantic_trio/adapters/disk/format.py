"""The one format of all files: a safetensors file that says what it is, with a checksum over all of
it.

Knows bytes, names and kinds. Knows nothing of directories, or of what tensors mean.

The checksum is XXH3-128 of the whole file, in the metadata, computed with zeros in its own place.
It finds what disks, crashes and people do to files by accident. It is no signature: who can write
into the directory can write a valid file.
"""

import errno
import io
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np
import numpy.typing as npt
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import save, save_file

from semantic_trio.adapters.disk.header import DTYPES, LENGTH_BYTES, FileHeader, header_bytes
from semantic_trio.adapters.disk.parsing import NewerError, UnfitError, parse, shown, strictly
from semantic_trio.domain.content import Content, Tensor

FORMAT = "semantic_trio/1"
# of all versions; a newer one may change everything else
FORMAT_NUMBER = re.compile(r"semantic_trio/(\d{1,9})")
ZEROS = b"0" * 32
CHECKSUM = re.compile(rb'"checksum"\s*:\s*"([0-9a-f]{32})"')
# numpy has no such numbers: their bytes travel as these, and the metadata says what they are.
CARRIERS = {"BF16": "U16"}
CHUNK_BYTES = 1 << 20
CAUSE = re.compile(r"\(os error (\d+)\)")


@attrs.frozen
class Label:
    """Label of a file: what it holds, and of which model."""

    kind: str
    name: str
    fingerprint: str
    model: str  # for people


def write(path: Path, label: Label, content: Content) -> None:
    """Fill a file without flushing it. Raises `OSError`, and may leave an incomplete file."""
    try:
        save_file(
            {name: _array(tensor) for name, tensor in content.items()},
            path,
            _metadata(label, content),
        )
    except SafetensorError as error:
        raise _os_error(error) from error
    _seal(path)


def sealed(label: Label, content: Content) -> bytes:
    """Return the bytes of the file that `write` makes."""
    whole = bytearray(
        save({name: _array(tensor) for name, tensor in content.items()}, _metadata(label, content))
    )
    place = _checksum_place(whole[: LENGTH_BYTES + header_bytes(bytes(whole[:LENGTH_BYTES]))])
    whole[slice(*place.span(1))] = xxhash.xxh3_128(whole).hexdigest().encode()
    return bytes(whole)


def read(path: Path, kind: str, fingerprint: str) -> tuple[str, Content]:
    """Return the name and content of a file.

    The content is views of one buffer, the one that the checksum was computed over. Raises
    `UnfitError` for a damaged file or one of another kind or model, `OSError` if the file cannot be
    read.
    """
    header, whole = _read(path)
    dtypes = _true_dtypes(header)
    name = _name(header.metadata, kind, fingerprint)
    data = whole[len(whole) - header.data_bytes :].toreadonly()
    return name, {
        key: Tensor(dtypes[key], entry.shape, data[slice(*entry.data_offsets)])
        for key, entry in header.entries.items()
    }


def read_raw(path: Path, kind: str, fingerprint: str) -> tuple[str, memoryview]:
    """Return the name of a file and all its bytes. Raises as `read` does."""
    header, whole = _read(path)
    return _name(header.metadata, kind, fingerprint), whole.toreadonly()


def read_label(path: Path) -> Label:
    """Return the label of a file, verified by its checksum.

    Raises `UnfitError` for a damaged or incomplete file, `OSError` if the file cannot be read.
    """
    header, _ = _read(path)
    said = {
        name: header.metadata.get(name)
        for name in ("format", *(field.name for field in attrs.fields(Label)))
    }
    if None in said.values() or said.pop("format") != FORMAT:
        raise UnfitError(
            f"is of format {shown(header.metadata.get('format', 'unknown'))}, not {FORMAT}"
        )
    return Label(**{name: str(text) for name, text in said.items()})


def _read(path: Path) -> tuple[FileHeader, memoryview]:
    """Return the header of a file and its verified bytes, header included."""
    with path.open("rb", buffering=0) as file:
        front = _front(file)
        header = FileHeader.parse(memoryview(front)[LENGTH_BYTES:])
        _refuse_newer(header.metadata)
        whole = _whole(file, front, len(front) + header.data_bytes)
    _verify(whole, len(front))
    return header, whole


def _refuse_newer(metadata: Mapping[str, str]) -> None:
    """Raises `NewerError` before the checksum is verified: a newer version may compute it in
    another way.
    """
    number, ours = (
        FORMAT_NUMBER.fullmatch(metadata.get("format", "")),
        FORMAT_NUMBER.fullmatch(FORMAT),
    )
    if number and ours and int(number[1]) > int(ours[1]):
        raise NewerError(
            f"is of format {number[0]}, which a newer version has written; this one reads {FORMAT}"
        )


def _array(tensor: Tensor) -> npt.NDArray[np.generic]:
    dtype = DTYPES[CARRIERS.get(tensor.dtype, tensor.dtype)]
    array = np.ndarray(tensor.shape, dtype, buffer=tensor.data)
    assert array.nbytes == len(tensor.data), (
        f"{tensor.dtype} {tensor.shape} in {len(tensor.data)} bytes"
    )
    return array


def _metadata(label: Label, content: Content) -> dict[str, str]:
    texts = {
        name: text.encode(errors="backslashreplace").decode()
        for name, text in attrs.asdict(label).items()
    }
    carried = {name: tensor.dtype for name, tensor in content.items() if tensor.dtype in CARRIERS}
    return {"format": FORMAT, **texts, "checksum": ZEROS.decode()} | (
        {"dtypes": json.dumps(carried)} if carried else {}
    )


def _os_error(error: SafetensorError) -> OSError:
    """Return an `OSError` with the error number, which stands only in the text."""
    cause = CAUSE.search(str(error))
    return OSError(int(cause[1]) if cause else errno.EIO, str(error))


def _seal(path: Path) -> None:
    with path.open("r+b", buffering=0) as file:
        start = _checksum_place(_front(file)).start(1)
        file.seek(0)
        digest, chunk = xxhash.xxh3_128(), memoryview(bytearray(CHUNK_BYTES))
        while count := file.readinto(chunk):
            digest.update(chunk[:count])
        os.pwrite(file.fileno(), digest.hexdigest().encode(), start)


def _front(file: io.FileIO) -> bytes:
    """Return the bytes of the header and of its length in front."""
    size = os.fstat(file.fileno()).st_size
    prefix = file.read(LENGTH_BYTES)
    length = header_bytes(prefix)
    if size < LENGTH_BYTES + length:
        raise UnfitError(f"ends after {size} of at least {LENGTH_BYTES + length} bytes")
    return prefix + file.read(length)


def _whole(file: io.FileIO, front: bytes, end: int) -> memoryview:
    """Return all bytes of a file.

    Raises `UnfitError`, before it takes memory, if the size of the file is not the one in its
    header.
    """
    size = os.fstat(file.fileno()).st_size
    if size != end:
        raise UnfitError(
            f"ends after {size} of {end} bytes"
            if size < end
            else f"goes on for {size - end} bytes after its end"
        )
    # a bytearray would be filled with zeros first, and every thread wait for it
    whole = np.empty(size, np.uint8).data
    whole[: len(front)] = front
    at = len(front)
    while at < size:  # one call reads 2 GB at most
        count = file.readinto(whole[at:])
        if not count:
            raise UnfitError(f"ends after {at} of {size} bytes")
        at += count
    return whole


def _checksum_place(front: bytes | bytearray | memoryview) -> re.Match[bytes]:
    places = list(CHECKSUM.finditer(front))
    if len(places) != 1:
        raise UnfitError(f"has {len(places)} checksums")
    return places[0]


def _verify(whole: memoryview, front_bytes: int) -> None:
    place = _checksum_place(whole[:front_bytes])
    digest = xxhash.xxh3_128(whole[: place.start(1)])
    digest.update(ZEROS)
    digest.update(whole[place.end(1) :])
    if digest.hexdigest() != place[1].decode():
        raise UnfitError(f"checksum is {digest.hexdigest()}, not {place[1].decode()}")


def _true_dtypes(header: FileHeader) -> dict[str, str]:
    carried = strictly(
        parse(header.metadata.get("dtypes", "{}").encode(errors="surrogatepass")),
        dict[str, str],
        "dtypes",
    )
    written = {name: entry.dtype for name, entry in header.entries.items()}
    for name, dtype in carried.items():
        if dtype not in CARRIERS or written.get(name) != CARRIERS[dtype]:
            raise UnfitError(f"has {shown(name)} of kind {shown(dtype)} as {written.get(name)}")
    return written | carried


def _name(metadata: Mapping[str, str], kind: str, fingerprint: str) -> str:
    if metadata.get("format") != FORMAT:
        raise UnfitError(f"is of format {shown(metadata.get('format', 'unknown'))}, not {FORMAT}")
    if metadata.get("kind") != kind:
        raise UnfitError(f"is a {shown(metadata.get('kind', 'thing'))}, not a {kind}")
    if metadata.get("fingerprint") != fingerprint:
        raise UnfitError(f"is another model's: {shown(metadata.get('model', 'unknown'))}")
    return metadata.get("name", "")
