"""The comparisons of test_export see what is wrong with content that came back, and what is none of
the model's is refused as a whole.
"""

from collections.abc import Callable

import attrs
import pytest

from semantic_trio.domain.content import Item, Kind, Tensor
from semantic_trio.domain.errors import CacheCorruptionError
from semantic_trio.domain.step import StepPlan
from tests.contract.conftest import ALIKE, FAULTY_ALIKE, with_blocks, with_snapshots
from tests.contract.memory import (
    BLOCK,
    RESTORED,
    Memory,
    block_key,
    is_noticed,
    refuses,
    snapshot_key,
)
from tests.contract.models import FAMILIES, VARIANTS
from tests.contract.script import prompt
from tests.search import sample

pytestmark = pytest.mark.exhaustive

Parts = dict[str, Tensor]
Spoil = Callable[[Parts], None]

FIRST, SECOND, SNAPSHOT = (
    Item(Kind.BLOCK, block_key(0)),
    Item(Kind.BLOCK, block_key(BLOCK)),
    Item(Kind.SNAPSHOT, snapshot_key(RESTORED)),
)
real_snapshots = pytest.mark.parametrize(
    "memory",
    sample(
        ["gemma3_text", "gpt_oss", "mamba2", "qwen3_next", "falcon_h1", "llama4"],
        (*ALIKE, *FAULTY_ALIKE),
    ),
    indirect=True,
)
real_blocks = pytest.mark.parametrize(
    "memory",
    sample([name for name in [*FAMILIES, *VARIANTS] if name != "mamba2"], (*ALIKE, *FAULTY_ALIKE)),
    indirect=True,
)


def zeros(tensor: Tensor) -> Tensor:
    return attrs.evolve(tensor, data=memoryview(bytes(tensor.data.nbytes)))


def arrays(parts: Parts) -> list[str]:
    """The names of what is more than a number."""
    return sorted(name for name, tensor in parts.items() if tensor.shape and tensor.data.nbytes)


def resized(tensor: Tensor, axis: int, size: int) -> Tensor:
    """Of another size, and full."""
    shape = (*tensor.shape[:axis], size, *tensor.shape[axis + 1 :])
    return Tensor(
        tensor.dtype, shape, memoryview(bytes(tensor.data.nbytes // tensor.shape[axis] * size))
    )


@with_blocks
@pytest.mark.parametrize("which", [0, -1])
async def test_a_tensor_of_a_block_zeroed(memory: Memory, which: int) -> None:
    away = await memory.exported(prompt(RESTORED))
    name = arrays(away[SECOND])[which]
    away[SECOND][name] = zeros(away[SECOND][name])
    await memory.load(away)

    assert await is_noticed(memory, memory.restore(RESTORED))


@with_blocks
@pytest.mark.parametrize("part", ["keys", "values"])
async def test_keys_or_values_of_two_blocks_swapped(memory: Memory, part: str) -> None:
    away = await memory.exported(prompt(RESTORED))
    for name in [name for name in away[FIRST] if name.endswith((part, "tokens"))]:
        away[FIRST][name], away[SECOND][name] = away[SECOND][name], away[FIRST][name]
    await memory.load(away)

    assert await is_noticed(memory, memory.restore(RESTORED))


@real_blocks
async def test_layers_of_a_block_swapped(memory: Memory) -> None:
    away = await memory.exported(prompt(RESTORED))
    layers = sorted({name.partition(".")[0] for name in away[FIRST]})
    if len(layers) == 1:
        return
    for part in ("keys", "values"):
        one, other = f"{layers[0]}.{part}", f"{layers[-1]}.{part}"
        away[FIRST][one], away[FIRST][other] = away[FIRST][other], away[FIRST][one]
    await memory.load(away)

    assert await is_noticed(memory, memory.restore(RESTORED))


@with_blocks
async def test_a_block_missing(memory: Memory) -> None:
    away = await memory.exported(prompt(RESTORED))
    del away[FIRST]
    await memory.load(away)

    assert await refuses(memory, StepPlan(open=(memory.start(memory.restore(RESTORED)),)))


@with_snapshots
async def test_a_snapshot_missing(memory: Memory) -> None:
    away = await memory.exported(prompt(RESTORED))
    del away[SNAPSHOT]
    await memory.load(away)

    assert await refuses(memory, StepPlan(open=(memory.start(memory.restore(RESTORED)),)))


@with_snapshots
async def test_a_part_of_a_snapshot_zeroed(memory: Memory) -> None:
    """In all its layers, and looked at after one token: the state of a single layer of a tiny model
    is forgotten in a few.
    """
    await memory.keep(prompt(RESTORED))
    away = (await memory.export())[SNAPSHOT]
    for part in {name.partition(".")[2] for name in arrays(away)}:
        zeroed = {
            name: zeros(away[name]) for name in arrays(away) if name.partition(".")[2] == part
        }
        await memory.runner.load({SNAPSHOT: {**away, **zeroed}})
        assert await is_noticed(memory, memory.restore(RESTORED), prompt(RESTORED + 1)), part


@with_snapshots
async def test_the_snapshot_of_another_position(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED), stops=(RESTORED - 1,))
    before = (await memory.export())[Item(Kind.SNAPSHOT, snapshot_key(RESTORED - 1))]
    await memory.runner.load({SNAPSHOT: before})

    assert await refuses(memory, StepPlan(open=(memory.start(memory.restore(RESTORED)),)))


@with_snapshots
async def test_the_snapshot_of_other_tokens(memory: Memory) -> None:
    await memory.keep(prompt(RESTORED, salt=1))
    other = (await memory.take_away())[SNAPSHOT]
    await memory.keep(prompt(RESTORED))
    await memory.runner.load({SNAPSHOT: other})

    assert await is_noticed(memory, memory.restore(RESTORED))


def first_array(change: Callable[[Tensor], Tensor]) -> Spoil:
    def spoil(parts: Parts) -> None:
        name = arrays(parts)[0]
        parts[name] = change(parts[name])

    return spoil


def every_array(change: Callable[[Tensor], Tensor]) -> Spoil:
    def spoil(parts: Parts) -> None:
        parts |= {name: change(parts[name]) for name in arrays(parts)}

    return spoil


def a_part_less(parts: Parts) -> None:
    del parts[arrays(parts)[0]]


def a_part_twice(parts: Parts) -> None:
    parts[f"{arrays(parts)[0]}:none"] = Tensor("U8", (0,), memoryview(b""))


WRONGS: dict[str, Spoil] = {
    "other numbers": first_array(lambda tensor: attrs.evolve(tensor, dtype="U32")),
    "unheard numbers": first_array(lambda tensor: attrs.evolve(tensor, dtype="F8_E4M3")),
    "an axis more": first_array(lambda tensor: attrs.evolve(tensor, shape=(*tensor.shape, 1))),
    "an axis less": first_array(lambda tensor: attrs.evolve(tensor, shape=tensor.shape[1:])),
    "fewer bytes": first_array(lambda tensor: attrs.evolve(tensor, data=tensor.data[:-4])),
    "a byte more": first_array(
        lambda tensor: attrs.evolve(tensor, data=memoryview(bytes(tensor.data) + bytes(1)))
    ),
    "a part less": a_part_less,
    "a part more": lambda parts: parts.update({"99.keys": parts[arrays(parts)[0]]}),
    "a part twice": a_part_twice,
    "nothing": lambda parts: parts.clear(),
}
WRONG_BLOCKS: dict[str, Spoil] = {
    "no positions": every_array(lambda tensor: resized(tensor, min(2, len(tensor.shape) - 1), 0)),
    "too many positions": every_array(
        lambda tensor: resized(tensor, min(2, len(tensor.shape) - 1), BLOCK + 1)
    ),
}
# What only those can have wrong that have layers.
WRONG_LAYERS: dict[str, Spoil] = {
    "fewer positions in one": first_array(lambda tensor: resized(tensor, 2, tensor.shape[2] - 1)),
    "negative sizes": first_array(
        lambda tensor: attrs.evolve(
            tensor, shape=(tensor.shape[0], -tensor.shape[1], -tensor.shape[2], tensor.shape[3])
        )
    ),
    "more heads": first_array(lambda tensor: resized(tensor, 1, tensor.shape[1] + 1)),
    "wider heads": first_array(lambda tensor: resized(tensor, 3, tensor.shape[3] + 1)),
    "two rows": first_array(lambda tensor: resized(tensor, 0, 2)),
}


async def is_refused(memory: Memory, item: Item, spoil: Spoil) -> bool:
    """With nothing stored, also of what is in order."""
    away = await memory.exported(prompt(RESTORED))
    spoil(away[item])
    away[item] = away.pop(item)  # the last one
    with pytest.raises(CacheCorruptionError) as caught:
        await memory.runner.load(away)
    return item.key.hex() in caught.value.name and not await memory.stored()


@with_blocks
@pytest.mark.parametrize("wrong", [*WRONGS, *WRONG_BLOCKS])
async def test_what_is_no_block_is_refused(memory: Memory, wrong: str) -> None:
    assert await is_refused(memory, FIRST, {**WRONGS, **WRONG_BLOCKS}[wrong])


@with_snapshots
@pytest.mark.parametrize("wrong", WRONGS)
async def test_what_is_no_snapshot_is_refused(memory: Memory, wrong: str) -> None:
    assert await is_refused(memory, SNAPSHOT, WRONGS[wrong])


@real_blocks
@pytest.mark.parametrize("wrong", WRONG_LAYERS)
async def test_a_block_of_another_model_is_refused(memory: Memory, wrong: str) -> None:
    assert await is_refused(memory, FIRST, WRONG_LAYERS[wrong])


@real_snapshots
async def test_a_snapshot_of_another_model_is_refused(memory: Memory) -> None:
    """Any tensor, any axis."""
    away = (await memory.exported(prompt(RESTORED)))[SNAPSHOT]
    larger = {
        name: [resized(away[name], axis, size + 1) for axis, size in enumerate(away[name].shape)]
        for name in arrays(away)
    }
    for name, tensor in [(name, tensor) for name, tensors in larger.items() for tensor in tensors]:
        with pytest.raises(CacheCorruptionError):
            await memory.runner.load({SNAPSHOT: {**away, name: tensor}})
    assert not await memory.stored()


def at(parts: Parts, position: int) -> Parts:
    return {
        **parts,
        "position": attrs.evolve(
            parts["position"], data=memoryview(position.to_bytes(8, "little", signed=True))
        ),
    }


@real_snapshots
@pytest.mark.parametrize("position", [RESTORED - 1, RESTORED + 1])
async def test_a_snapshot_that_says_another_position_is_refused_when_it_is_used_at_the_latest(
    memory: Memory, position: int
) -> None:
    """A recurrent state does not know how many tokens it has seen; the books do."""
    away = await memory.exported(prompt(RESTORED))
    try:
        await memory.load({**away, SNAPSHOT: at(away[SNAPSHOT], position)})
    except CacheCorruptionError:
        return

    assert await refuses(memory, StepPlan(open=(memory.start(memory.restore(RESTORED)),)))


@real_snapshots
@pytest.mark.parametrize("position", [0, -1])
async def test_a_snapshot_of_no_position_is_refused(memory: Memory, position: int) -> None:
    away = await memory.exported(prompt(RESTORED))

    with pytest.raises(CacheCorruptionError):
        await memory.runner.load({SNAPSHOT: at(away[SNAPSHOT], position)})


@pytest.mark.parametrize("memory", ["gemma3_text", "llama4", "gpt_oss_128"], indirect=True)
async def test_a_snapshot_whose_counters_disagree_is_refused(memory: Memory) -> None:
    away = (await memory.exported(prompt(RESTORED)))[SNAPSHOT]
    for name in [name for name in away if name.endswith(":int")]:
        wrong = int.from_bytes(away[name].data, "little") + 1
        with pytest.raises(CacheCorruptionError, match=name.partition(".")[2].partition(":")[0]):
            await memory.runner.load(
                {
                    SNAPSHOT: {
                        **away,
                        name: attrs.evolve(
                            away[name], data=memoryview(wrong.to_bytes(8, "little"))
                        ),
                    }
                }
            )


@with_blocks
async def test_numbers_that_are_none_are_numbers(memory: Memory) -> None:
    away = await memory.exported(prompt(RESTORED))
    for name in arrays(away[FIRST]):
        away[FIRST][name] = attrs.evolve(
            away[FIRST][name], data=memoryview(b"\xff" * away[FIRST][name].data.nbytes)
        )
    await memory.load(away)
    again = (await memory.runner.export([FIRST]))[FIRST]

    assert {name: bytes(tensor.data) for name, tensor in again.items()} == {
        name: bytes(tensor.data) for name, tensor in away[FIRST].items()
    }
