"""States of a row's caches, cut out to be kept, and given to fresh caches again. By kind of cache.

Knows mlx-lm's caches from the inside. Knows nothing of keys, rows or plans. Everything here is
lazy; once it is computed, what was cut out has buffers of its own: a view would keep the row's
whole buffer, and make its next append copy all of it.
"""

from collections.abc import Sequence
from typing import cast

import mlx.core as mx
from mlx.utils import tree_flatten, tree_map
from mlx_lm.models.cache import ArraysCache, ChunkedKVCache, KVCache, RotatingKVCache

from semantic_trio.adapters.mlx.geometry import Leaf, leaves
from semantic_trio.adapters.mlx.kv import RowCaches

# keys and values of one layer, (1, heads, positions, dim); heads and dim of the two may differ
Rows = tuple[mx.array, mx.array]
State = dict[str, object]  # attributes of a cache, arrays among them


def global_layers(caches: RowCaches) -> list[KVCache]:
    """The caches that keep every position, in the order of the model's layers."""
    return [leaf for leaf in leaves(caches) if isinstance(leaf, KVCache)]


def other_layers(caches: RowCaches) -> list[Leaf]:
    """All other caches, in the order of the model's layers."""
    return [leaf for leaf in leaves(caches) if not isinstance(leaf, KVCache)]


def positions_read(caches: RowCaches) -> set[int]:
    """Return the number of tokens that the caches have seen, as far as they know: one number,
    unless something is wrong.
    """
    offsets = [getattr(leaf, "offset", None) for leaf in leaves(caches) if not leaf.empty()]
    return {offset for offset in offsets if isinstance(offset, int)}


def view(cache: KVCache, start: int, stop: int) -> Rows | None:
    """The positions [start, stop), to be copied at once and not kept.

    None for a cache the model makes and never uses.
    """
    if cache.empty():
        return None
    assert start < stop <= cache.offset, f"positions [{start}, {stop}) of {cache.offset}"
    return cache.keys[..., start:stop, :], cache.values[..., start:stop, :]


def cut(cache: KVCache, start: int, stop: int) -> Rows | None:
    """The positions [start, stop), to be kept."""
    rows = view(cache, start, stop)
    return None if rows is None else (mx.contiguous(rows[0]), mx.contiguous(rows[1]))


def join(cache: KVCache, pieces: Sequence[Rows | None], room: int) -> None:
    """Begin a fresh cache with the pieces, one after the other, and room for at least so many more
    positions: one copy, and no second one soon.
    """
    rows = [piece for piece in pieces if piece is not None]
    if not rows:
        return
    length = sum(keys.shape[2] for keys, _ in rows)
    capacity = -(-(length + room) // cache.step) * cache.step
    cache.keys = _padded([keys for keys, _ in rows], capacity - length)
    cache.values = _padded([values for _, values in rows], capacity - length)
    cache.offset = length


def state_of_layer(cache: Leaf) -> State:
    """All that a cache which is not global needs to go on from here, and no more."""
    match cache:
        case RotatingKVCache():
            keys, values = _last_rows(cache, cache.keys), _last_rows(cache, cache.values)
            state = {"keys": keys, "values": values, "offset": cache.offset, "_idx": keys.shape[2]}
        case ChunkedKVCache():
            stop = cache.offset - cache.start_position
            start = max(stop - cache.offset % cache.chunk_size, 0)
            keys, values = cache.keys[..., start:stop, :], cache.values[..., start:stop, :]
            state = {
                "keys": keys,
                "values": values,
                "offset": cache.offset,
                "start_position": cache.start_position + start,
            }
        case _:
            state = vars(cache)
    return _copied(state)


def restore_layer(cache: Leaf, state: State, position: int, length: int) -> None:
    """Give a fresh cache what another one held at `position`, so that it has seen `length`
    tokens.
    """
    if isinstance(cache, RotatingKVCache) and length < position <= cache.max_size:
        keys, values = cast(mx.array, state["keys"]), cast(mx.array, state["values"])
        state = {
            "keys": keys[..., :length, :],
            "values": values[..., :length, :],
            "offset": length,
            "_idx": length,
        }
        position = length
    assert position == length, f"what was kept at {position} does not serve at {length}"
    vars(cache).update(_copied(state))


def is_known(cache: Leaf) -> bool:
    """True if a cache that is not global is of a kind whose state is known."""
    return isinstance(cache, RotatingKVCache | ChunkedKVCache | ArraysCache)


def counts_at(cache: Leaf, position: int) -> dict[str, int]:
    """Return the counters of a state at `position`, and how many positions its keys and values
    have: as far as this kind of cache is known.
    """
    match cache:
        case RotatingKVCache():
            rows = min(position, cache.max_size)
            return {"keys": rows, "values": rows, "offset": position, "_idx": rows}
        case ChunkedKVCache():
            rows = position % cache.chunk_size
            return {
                "keys": rows,
                "values": rows,
                "offset": position,
                "start_position": position - rows,
            }
        case _:
            return {"offset": position} if isinstance(vars(cache).get("offset"), int) else {}


def arrays_in(states: Sequence[State] | Sequence[Rows | None]) -> list[mx.array]:
    """All arrays kept, in no particular order."""
    flat = cast(list[tuple[str, object]], tree_flatten(list(states)))
    return [leaf for _, leaf in flat if isinstance(leaf, mx.array)]


def _padded(pieces: list[mx.array], room: int) -> mx.array:
    _, heads, _, dim = pieces[0].shape
    return mx.concatenate([*pieces, mx.zeros((1, heads, room, dim), pieces[0].dtype)], axis=2)


def _last_rows(cache: RotatingKVCache, held: mx.array) -> mx.array:
    """The last `window` positions in the order they were read: the ring is turned back, and what a
    chunk left beside the window is cut off.
    """
    ordered: mx.array = cache._temporal_order(held)
    surplus = ordered.shape[2] - cache.max_size
    return cache._trim(surplus, ordered) if surplus > 0 else ordered


def _copied(state: State) -> State:
    """New containers around new arrays.

    Buffers may be shared: MLX writes to one in place only while a single array has it.
    """
    return cast(
        State,
        tree_map(
            lambda leaf: mx.contiguous(leaf) if isinstance(leaf, mx.array) else leaf, dict(state)
        ),
    )
