"""Arrays as bytes, and bytes as arrays again. Runs on the device's thread.

Knows kinds of numbers, and how what is kept is named. Knows nothing of models, keys or files.

A block has `<layer>.keys` and `<layer>.values`, by index among the global layers; layers the model
never uses are absent. A snapshot has `position`, and for each leaf of the state of the other
layers, by index among them, `<layer>.<path>`: attributes, keys and indices, joined by dots
(`0.keys`, `2.cache.1`). A leaf that is no array says so: `0.offset:int` and `0.is_full:bool` have
no axes, `2.lengths:none` has no bytes.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import cast

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten

from semantic_trio.adapters.mlx.snapshot import Rows, State
from semantic_trio.domain.content import Content, Tensor

# a block or snapshot: position and layers by name, arrays and other leaves far below
Tree = Mapping[str, object]

# MLX's kinds of numbers by the names safetensors has for them, with numpy's of the same size: it
# has no bfloat16. MLX's float64 is not here: no GPU has it, and no model is loaded with it.
KINDS: dict[str, tuple[mx.Dtype, type[np.generic]]] = {
    "BOOL": (mx.bool_, np.bool_),
    "U8": (mx.uint8, np.uint8),
    "I8": (mx.int8, np.int8),
    "U16": (mx.uint16, np.uint16),
    "I16": (mx.int16, np.int16),
    "U32": (mx.uint32, np.uint32),
    "I32": (mx.int32, np.int32),
    "U64": (mx.uint64, np.uint64),
    "I64": (mx.int64, np.int64),
    "F16": (mx.float16, np.float16),
    "BF16": (mx.bfloat16, np.uint16),
    "F32": (mx.float32, np.float32),
}
NAMES = {dtype: name for name, (dtype, _) in KINDS.items()}


def block_tree(layers: Sequence[Rows | None]) -> Tree:
    """A block by the names of its parts."""
    return {
        str(layer): {"keys": rows[0], "values": rows[1]}
        for layer, rows in enumerate(layers)
        if rows is not None
    }


def snapshot_tree(position: int, layers: Sequence[State]) -> Tree:
    """A snapshot by the names of its parts."""
    return {
        "position": mx.array(position, dtype=mx.int64),
        **{str(layer): state for layer, state in enumerate(layers)},
    }


def arrays_by_name(tree: Tree) -> dict[str, mx.array]:
    """Return the arrays that are written of a tree.

    Everything else of them is there at once: nothing has to be computed for it.
    """
    flat = cast(list[tuple[str, object]], tree_flatten(tree))
    return dict(_written(path, leaf) for path, leaf in flat)


def content_of(tree: Tree) -> Content:
    """The bytes of a tree whose arrays have been computed, where they are."""
    return {name: tensor_of(array) for name, array in arrays_by_name(tree).items()}


def tensor_of(array: mx.array) -> Tensor:
    """The bytes of an array that has been computed, row by row without gaps: not copied, and for
    any thread to read and to drop.

    What is viewed is an object of its own that nobody else has. MLX counts it among those that have
    the buffer, and writes in place only to what a single one has; a view of the array itself would
    not be counted, and change with it (mlx 0.32.4).
    """
    own = memoryview(cast(bytes, copy.copy(array)))  # its stubs do not say that it is a buffer
    assert own.c_contiguous, "what is kept lies row by row without gaps"
    return Tensor(
        NAMES[array.dtype], tuple(array.shape), np.frombuffer(own, np.uint8).data.toreadonly()
    )


def leaf_of(name: str, tensor: Tensor) -> mx.array | int | None:
    """Return what was written under a name, arrays copied.

    Nothing is computed for it but a view of bfloat16, which takes no time.
    """
    match name.partition(":")[2]:
        case "none":
            return None
        case "bool":
            return any(tensor.data)
        case "int":
            return int.from_bytes(tensor.data, "little", signed=True)
        case _:
            dtype, same_size = KINDS[tensor.dtype]
            array = mx.array(np.ndarray(tensor.shape, same_size, tensor.data))
            return array if array.dtype == dtype else array.view(dtype)


def path_of(name: str) -> str:
    """Return the path in the tree of the array with this name."""
    return name.partition(":")[0]


def _written(path: str, leaf: object) -> tuple[str, mx.array]:
    match leaf:
        case mx.array():
            return path, leaf
        case None:
            return f"{path}:none", mx.array([], dtype=mx.uint8)
        case bool():
            return f"{path}:bool", mx.array(leaf)
        case int():
            return f"{path}:int", mx.array(leaf, dtype=mx.int64)
        case _:
            raise TypeError(f"{path}: a {type(leaf).__name__} cannot be written")
