"""What left a runner and came back computes what was never gone, and what has left stays as it was.

Log-probabilities of forced positions are compared, as in test_memory; and bytes.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import mlx.core as mx
import numpy as np
import pytest
import trio
from mlx.utils import tree_map
from mlx_lm.models.cache import ConcatenateKVCache, KVCache

from semantic_trio.adapters.mlx.content import content_of, tensor_of
from semantic_trio.adapters.mlx.forms import Forms
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.kv import InTurnLayout
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner
from semantic_trio.domain.content import Content, Item, Kind
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.step import Chunk, Decode, RowClose, SaveSnapshot, StepPlan
from tests.contract.conftest import fresh
from tests.contract.memory import (
    FORCED,
    RESTORED,
    Memory,
    block_key,
    blocks,
    lengths_of,
    snapshot_key,
)
from tests.contract.models import random_model, random_runner
from tests.contract.script import close, prompt
from tests.device import on_device, shared_device

Bits = dict[Item, dict[str, tuple[str, tuple[int, ...], bytes]]]


def bits(contents: Mapping[Item, Content]) -> Bits:
    return {
        item: {
            name: (tensor.dtype, tensor.shape, bytes(tensor.data))
            for name, tensor in content.items()
        }
        for item, content in contents.items()
    }


async def test_what_was_away_serves_at_any_length(memory: Memory) -> None:
    """Cut out of whole blocks, with snapshots around windows and between them."""
    history, lengths = prompt(620), lengths_of(memory)
    await memory.keep(history[:600], stops=[length for length, _ in lengths])
    await memory.load(await memory.take_away())

    scores = await memory.scores(
        [(history[: length + further], memory.restore(length)) for length, further in lengths]
    )

    for (length, further), found in zip(lengths, scores, strict=True):
        assert close(found, await memory.expected(history[: length + further])), (
            f"restored at {length}, then {further} tokens"
        )


@pytest.mark.parametrize("length", [20, 120])
async def test_a_row_closed_while_it_decodes_goes_on_when_it_was_away(
    memory: Memory, length: int
) -> None:
    """Its ring buffers have turned."""
    row = await memory.read(prompt(length))
    await memory.decode(row, count=30)
    position = length + 30
    await memory.step(
        StepPlan(
            close=(
                RowClose(
                    row, blocks(row, position), SaveSnapshot(snapshot_key(position), row, position)
                ),
            )
        )
    )
    await memory.load(await memory.take_away())
    history = prompt(length) + FORCED[:31]

    assert close(
        await memory.score(history, memory.restore(position, is_last_use=True)),
        await memory.expected(history),
    )


@pytest.mark.parametrize(
    "family",
    ["fake_hybrid", "llama", "gemma3_text", "llama4", "falcon_h1", "mamba2", "deepseek_v3"],
)
async def test_another_runner_of_the_same_weights_goes_on(family: str) -> None:
    first, second = Memory(fresh(family)), Memory(fresh(family))
    await first.keep(prompt(RESTORED))
    await second.load(await first.export())

    assert close(
        await second.score(prompt(RESTORED + 5), second.restore(RESTORED)),
        await second.expected(prompt(RESTORED + 5)),
    )


async def test_what_comes_out_again_is_what_went_in(memory: Memory) -> None:
    await memory.keep(prompt(300), stops=(1, 31, 256))
    away = await memory.take_away()
    await memory.load(away)

    assert {item.kind for item in away} == {Kind.BLOCK, Kind.SNAPSHOT}
    assert bits(await memory.runner.export(await memory.stored())) == bits(away)


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16], ids=["BF16", "F16"])
@pytest.mark.parametrize("family", ["llama", "gemma3_text", "qwen3_next"])
async def test_numbers_of_two_bytes_are_kept_to_the_bit(family: str, dtype: mx.Dtype) -> None:
    memory = Memory(random_runner(family, dtype=dtype))
    await memory.keep(prompt(100))
    stayed = await memory.score(prompt(105), memory.restore(100))
    away = await memory.take_away()
    await memory.load(away)

    assert bits(await memory.export()) == bits(away)
    assert {tensor.dtype for tensor in away[Item(Kind.BLOCK, block_key(0))].values()} == {
        "BF16" if dtype == mx.bfloat16 else "F16"
    }
    assert await memory.score(prompt(105), memory.restore(100)) == stayed


async def test_what_is_not_stored_is_absent(memory: Memory) -> None:
    await memory.keep(prompt(20))
    stored, others = (
        Item(Kind.BLOCK, block_key(0)),
        [Item(Kind.BLOCK, snapshot_key(20)), Item(Kind.SNAPSHOT, block_key(0))],
    )

    assert set(await memory.runner.export([stored, *others])) == {stored}
    assert await memory.runner.export([]) == {}


async def test_what_is_loaded_takes_the_place_of_what_was_there(memory: Memory) -> None:
    await memory.keep(prompt(100))
    honest = await memory.take_away()
    await memory.keep(prompt(100, salt=1))
    await memory.runner.load(honest)

    assert close(
        await memory.score(prompt(104), memory.restore(100)), await memory.expected(prompt(104))
    )


async def test_what_was_loaded_is_a_copy(memory: Memory) -> None:
    """The bytes it came in may be gone a moment later, or be those of something else."""
    await memory.keep(prompt(100))
    away = await memory.take_away()
    buffers = {
        item: {name: bytearray(tensor.data) for name, tensor in content.items()}
        for item, content in away.items()
    }
    for item, parts in buffers.items():
        views = {
            name: attrs.evolve(away[item][name], data=memoryview(buffer))
            for name, buffer in parts.items()
        }
        await memory.runner.load({item: views})
        for buffer in parts.values():
            buffer[:] = bytes(len(buffer))

    assert bits(await memory.export()) == bits(away)


async def take_over(memory: Memory) -> None:
    """A row becomes what was stored, nobody else has it any more, and the row appends to it."""
    start = memory.start(memory.restore(300, is_last_use=True))
    await memory.step(
        StepPlan(open=(start,), prefill=(Chunk(start.row, prompt(305)[300:], 300, 0),))
    )
    await memory.step(StepPlan(drop_snapshots=(snapshot_key(300),)))
    await memory.decode(start.row, count=40)


async def replace(memory: Memory) -> None:
    await memory.keep(prompt(300, salt=1))


async def reset(memory: Memory) -> None:
    row = await memory.read(prompt(40, salt=1))
    await memory.step(StepPlan(decode=(Decode(row, 1),)))
    await memory.runner.reset()


@pytest.mark.parametrize("act", [Memory.forget_everything, take_over, replace, reset])
async def test_what_has_left_stays_as_it_is(
    memory: Memory, act: Callable[[Memory], Awaitable[None]]
) -> None:
    await memory.keep(prompt(300), stops=(20, 256))
    views = await memory.runner.export(await memory.stored())
    before = bits(views)
    await act(memory)
    await memory.forget_everything()
    await memory.keep(prompt(300, salt=2), stops=(20, 256))  # in whatever memory is free

    assert bits(views) == before
    assert bits(await memory.export()) != before


async def test_what_has_left_is_read_and_dropped_by_any_thread(memory: Memory) -> None:
    await memory.keep(prompt(300))
    views, before = [await memory.runner.export(await memory.stored())], await memory.export()
    await memory.forget_everything()

    assert await trio.to_thread.run_sync(lambda: bits(views.pop())) == bits(before)
    assert close(await memory.score(prompt(20), None), await memory.expected(prompt(20)))


async def test_content_is_read_only(memory: Memory) -> None:
    await memory.keep(prompt(20))
    tensors = [
        tensor
        for content in (await memory.runner.export(await memory.stored())).values()
        for tensor in content.values()
    ]

    assert all(
        tensor.data.readonly and tensor.data.contiguous and tensor.data.format == "B"
        for tensor in tensors
    )


def test_a_view_does_not_change_with_the_array_it_is_of() -> None:
    """MLX would write where the view looks, did the view not have an array of its own."""

    def written_to() -> bytes:
        array = mx.zeros((1, 2, 8, 4))
        mx.eval(array)
        tensor = tensor_of(array)
        array[..., 2:4, :] = 7.0
        mx.eval(array)
        return bytes(tensor.data)

    assert on_device(written_to) == bytes(4 * 2 * 8 * 4)


def test_a_view_is_no_copy() -> None:
    def addresses() -> list[int]:
        array = mx.ones((1, 2, 8, 4))
        mx.eval(array)
        return [
            np.frombuffer(view, np.uint8).ctypes.data
            for view in (memoryview(array), tensor_of(array).data)
        ]

    one, other = on_device(addresses)
    assert one == other


@pytest.mark.parametrize("memory", ["gemma3_text", "falcon_h1"], indirect=True)
async def test_names_say_what_is_where(memory: Memory) -> None:
    await memory.keep(prompt(40))
    contents = await memory.export()
    block, snapshot = (
        contents[Item(Kind.BLOCK, block_key(0))],
        contents[Item(Kind.SNAPSHOT, snapshot_key(40))],
    )
    sliding = {"0.keys", "0.values", "0.offset:int", "0._idx:int"}
    recurrent = {"0.cache.0", "0.cache.1", "0.left_padding:none", "0.lengths:none"}

    assert {name for name in block if name.startswith("1.")} == {"1.keys", "1.values"}
    assert {name for name in snapshot if not name.startswith(("1.", "2.", "3."))} in (
        {"position", *sliding},
        {"position", *recurrent},
    )
    assert (
        snapshot["position"].dtype,
        snapshot["position"].shape,
        bytes(snapshot["position"].data),
    ) == ("I64", (), (40).to_bytes(8, "little"))
    assert block["0.keys"].dtype == "F32"
    assert block["0.keys"].shape[2:] == (40, 16)


def test_leaves_of_every_kind_come_back() -> None:
    def there_and_back() -> tuple[Any, Any]:
        there = {
            "a": [None, mx.array([2.5, -1]).astype(mx.bfloat16)],
            "b": (1, -(2**40)),
            "c": {"d": True, "e": False},
            "f": mx.zeros((2, 0)),
        }
        mx.eval(there)
        back = Forms.of([{"0": there}]).read(content_of({"0": there}))["0"]
        return tree_map(as_text, there), tree_map(as_text, back)

    def as_text(leaf: object) -> str:
        return f"{leaf} {leaf.dtype} {leaf.shape}" if isinstance(leaf, mx.array) else repr(leaf)

    there, back = on_device(there_and_back)
    assert there == back


def test_a_leaf_that_cannot_be_written_is_not_left_out() -> None:
    with pytest.raises(TypeError, match="str"):
        content_of({"0": {"name": "value"}})


class Late(ConcatenateKVCache):  # type: ignore[misc] # mlx-lm ships no types
    """Keeps something only when it has seen enough."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: mx.array | None = None

    def update_and_fetch(self, keys: mx.array, values: mx.array) -> tuple[mx.array, mx.array]:
        every: tuple[mx.array, mx.array] = super().update_and_fetch(keys, values)
        self.seen = every[0][0, :, ::10, 0] if self.offset > 10 else None
        return every


def runner_with(*caches: type) -> MlxRunner:
    """One of a model that asks for other caches than its own."""

    def build() -> tuple[DeviceRows, object]:
        model = random_model("llama")
        model.make_cache = lambda: [cache() for cache in caches]
        return DeviceRows(InTurnLayout(model)), measure_spec(
            model, f"llama with {[cache.__name__ for cache in caches]}"
        )

    batch, spec = on_device(build)
    return MlxRunner(shared_device(), batch, spec)


@pytest.mark.parametrize(
    "caches",
    [[KVCache] * 5, [KVCache, KVCache, ConcatenateKVCache, Late]],
    ids=["unused", "unheard"],
)
async def test_caches_that_are_never_used_or_of_no_kind_we_know(caches: list[type]) -> None:
    memory = Memory(runner_with(*caches))
    await memory.keep(prompt(RESTORED))
    away = await memory.take_away()
    await memory.load(away)

    layers = {name.partition(".")[0] for name in away[Item(Kind.BLOCK, block_key(0))]}
    assert layers == {str(layer) for layer in range(min(caches.count(KVCache), 4))}
    assert close(
        await memory.score(prompt(RESTORED + 5), memory.restore(RESTORED)),
        await memory.expected(prompt(RESTORED + 5)),
    )


@pytest.mark.parametrize("act", ["export", "load"])
async def test_a_device_that_raises_is_told(act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(fresh("llama"))
    await memory.keep(prompt(20))
    contents = await memory.export()

    def fail(*_: object) -> None:
        raise RuntimeError("on fire")

    monkeypatch.setattr(
        f"semantic_trio.adapters.mlx.{'blocks.content_of' if act == 'export' else 'forms.leaf_of'}",
        fail,
    )
    with pytest.raises(StepFailedError, match="on fire"):
        await (
            memory.runner.export([*contents]) if act == "export" else memory.runner.load(contents)
        )
