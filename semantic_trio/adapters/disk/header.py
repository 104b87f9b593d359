"""The front of a safetensors file: which tensors it has, and where.

Knows the format and its bounds. Knows nothing of checksums or of what the tensors are for.
"""

import math
from collections.abc import Mapping
from typing import Annotated

import attrs
import msgspec
import numpy as np

from semantic_trio.adapters.disk.parsing import Count, UnfitError, parse, shown, strictly

# The kinds of numbers numpy and safetensors both have.
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"), "C64": np.dtype("<c8"),
}  # fmt: skip
LENGTH_BYTES = 8  # of the header's length, which comes first
LARGEST_HEADER = 100_000_000  # bytes: the format's own bound
MOST_DIMENSIONS = 64  # numpy's own bound


class TensorEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor."""

    dtype: str
    shape: Annotated[tuple[Count, ...], msgspec.Meta(max_length=MOST_DIMENSIONS)]
    data_offsets: tuple[Count, Count]  # from the end of the header

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensor, by its shape. Raises `UnfitError`."""
        if self.dtype not in DTYPES:
            raise UnfitError(f"has numbers of kind {shown(self.dtype)}")
        return DTYPES[self.dtype].itemsize * math.prod(self.shape)


@attrs.frozen
class FileHeader:
    """Content of a file's header."""

    metadata: Mapping[str, str]
    entries: Mapping[str, TensorEntry]
    data_bytes: int

    @classmethod
    def parse(cls, text: bytes | memoryview) -> "FileHeader":
        """Raises `UnfitError` unless the tensors fill the data, each its own place, without
        gaps.
        """
        found = strictly(parse(text), dict[str, object], "header")
        metadata = strictly(found.pop("__metadata__", {}), dict[str, str], "metadata")
        entries = {
            name: strictly(entry, TensorEntry, f"entry for {shown(name)}")
            for name, entry in found.items()
        }
        return cls(metadata, entries, _filled(entries))


def header_bytes(prefix: bytes) -> int:
    """The length of the header by the first bytes of a file. Raises `UnfitError`."""
    length = int.from_bytes(prefix, "little")
    if length > LARGEST_HEADER:
        raise UnfitError(f"has a header of {length} bytes")
    return length


def _filled(entries: Mapping[str, TensorEntry]) -> int:
    at = 0
    for name, entry in sorted(entries.items(), key=lambda one: one[1].data_offsets):
        start, stop = entry.data_offsets
        if start != at or stop - start != entry.size_bytes:
            raise UnfitError(
                f"has {shown(name)} of {shown(str(entry.size_bytes))} bytes at [{start}, {stop}), "
                f"where {at} comes next"
            )
        at = stop
    return at
