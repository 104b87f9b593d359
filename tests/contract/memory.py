"""Drives a runner that keeps and restores, and compares what its rows score with what rows score
that read everything themselves.
"""

import itertools
from collections.abc import Iterable, Mapping

import attrs
import mlx.core as mx
import pytest

from semantic_trio.adapters.mlx.page_store import PageStore
from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.adapters.scripted.token_runner import TokenRunner
from semantic_trio.domain.content import Content, Item, Kind, Tensor
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.step import (
    Chunk,
    Decode,
    Piece,
    Restore,
    RowClose,
    RowStart,
    SaveBlock,
    SaveSnapshot,
    StepPlan,
)
from semantic_trio.ports.runner import ModelRunner
from tests.contract.script import GREEDY, Script, close, logprobs, prompt
from tests.device import on_device

BLOCK = 256
SCORED = 20
# positions, where a test has no need of others: two blocks and a tail, around no window's end
RESTORED = 600
FORCED = prompt(60, salt=77)  # what every row draws

# of rows that read everything, by model and history
_scores: dict[tuple[str, tuple[int, ...]], list[float]] = {}
# of histories that were read and kept, by model and history
_exported: dict[tuple[str, tuple[int, ...]], dict[Item, dict[str, Tensor]]] = {}


def snapshot_key(position: int, name: str = "") -> bytes:
    return f"{name}@{position}".encode()


def block_key(start: int, name: str = "") -> bytes:
    return f"{name}[{start}".encode()


def blocks(row: int, length: int, name: str = "") -> tuple[SaveBlock, ...]:
    """A row's whole blocks and its tail."""
    return tuple(
        SaveBlock(block_key(at, name), row, at, min(at + BLOCK, length))
        for at in range(0, length, BLOCK)
    )


def zero_block(runner: ModelRunner, key: bytes) -> None:
    """Reach inside and spoil what is kept."""
    if isinstance(runner, TokenRunner):
        runner.blocks[key] = (0,) * len(runner.blocks[key])
        return
    assert isinstance(runner, MlxRunner)
    store = runner.batch.store

    def spoil() -> None:
        if isinstance(store, PageStore):
            page = store._blocks[key].page
            slots = range(page * BLOCK, (page + 1) * BLOCK)
            store.pool.store(
                slots,
                [
                    (mx.zeros_like(keys), mx.zeros_like(values))
                    for keys, values in store.pool.read(slots)
                ],
            )
            return
        kept = store._blocks
        kept[key] = [
            rows and (mx.zeros_like(rows[0]), mx.zeros_like(rows[1])) for rows in kept[key]
        ]

    on_device(spoil)


def copied(content: Content) -> dict[str, Tensor]:
    """Content with bytes of its own."""
    return {
        name: attrs.evolve(tensor, data=memoryview(bytes(tensor.data)))
        for name, tensor in content.items()
    }


def break_device(runner: ModelRunner, patch: pytest.MonkeyPatch) -> None:
    """Have passes fail when rows have been appended to, as far as that goes."""

    def fail(*_: object) -> None:
        raise RuntimeError("on fire")

    async def fail_step(*_: object) -> None:
        raise StepFailedError("on fire")

    if isinstance(runner, TokenRunner):
        patch.setattr(TokenRunner, "step", fail_step)
    else:
        patch.setattr("semantic_trio.adapters.mlx.runner.draw", fail)


class Memory(Script):
    """A script whose rows draw what is forced, and are kept under keys that say where they were
    cut.
    """

    def __init__(self, runner: ModelRunner) -> None:
        super().__init__(runner)
        self._rows = itertools.count()

    async def stored(self) -> list[Item]:
        held = await self.runner.inventory()
        return [
            *(Item(Kind.BLOCK, key) for key in held.blocks),
            *(Item(Kind.SNAPSHOT, key) for key in held.snapshots),
        ]

    async def export(self) -> dict[Item, dict[str, Tensor]]:
        """All that is stored, in bytes of its own."""
        return {
            item: copied(content)
            for item, content in (await self.runner.export(await self.stored())).items()
        }

    async def take_away(self) -> dict[Item, dict[str, Tensor]]:
        """All that is stored, and then nothing is."""
        contents = await self.export()
        await self.forget_everything()
        return contents

    async def exported(self, history: tuple[int, ...]) -> dict[Item, dict[str, Tensor]]:
        """Content of a kept history, and nothing is stored.

        The history is read once for all tests of a model.
        """
        key = (self.runner.spec.fingerprint, history)
        if key not in _exported:
            await self.keep(history)
            _exported[key] = await self.take_away()
        assert not await self.stored()
        return {item: dict(parts) for item, parts in _exported[key].items()}

    async def load(self, contents: Mapping[Item, Content]) -> None:
        """One at a time, as those do who do not want to hold the device for long."""
        for item, content in contents.items():
            await self.runner.load({item: content})

    async def forget_everything(self) -> None:
        await self.runner.reset()
        held = await self.runner.inventory()
        await self.step(
            StepPlan(drop_blocks=tuple(held.blocks), drop_snapshots=tuple(held.snapshots))
        )

    def start(self, restore: Restore | None = None) -> RowStart:
        return RowStart(next(self._rows), 0, GREEDY, FORCED, restore)

    async def read(
        self, history: tuple[int, ...], stops: Iterable[int] = (), name: str = ""
    ) -> int:
        """A row that reads in pieces with a snapshot at the end of each, and draws one token after
        the last.
        """
        start, at = self.start(), 0
        for stop in sorted({*stops, len(history)}):
            chunk = Chunk(start.row, history[at:stop], at, 0 if stop == len(history) else None)
            opened = (start,) if at == 0 else ()
            await self.step(
                StepPlan(
                    open=opened,
                    prefill=(chunk,),
                    snapshots=(SaveSnapshot(snapshot_key(stop, name), start.row, stop),),
                )
            )
            at = stop
        return start.row

    async def decode(self, *rows: int, count: int, first: int = 1) -> None:
        for index in range(first, first + count):
            await self.step(StepPlan(decode=tuple(Decode(row, index) for row in rows)))

    async def close(self, row: int, length: int = 0, name: str = "") -> None:
        """End a row and keep so many of its positions."""
        await self.step(StepPlan(close=(RowClose(row, blocks(row, length, name)),)))

    async def keep(
        self, history: tuple[int, ...], stops: Iterable[int] = (), name: str = ""
    ) -> None:
        """Have a history read and kept, with snapshots."""
        await self.close(await self.read(history, stops, name), len(history), name)

    def restore(self, length: int, name: str = "", *, is_last_use: bool = False) -> Restore:
        pieces = [
            Piece(at, min(at + BLOCK, length), block_key(at, name), is_last_use=is_last_use)
            for at in range(0, length, BLOCK)
        ]
        return self.of(length, pieces, snapshot_key(length, name))

    def of(self, length: int, pieces: Iterable[Piece], snapshot: bytes | None = None) -> Restore:
        """As much of it as the model has use for."""
        return Restore(
            length,
            tuple(pieces) if self.runner.spec.has_blocks else (),
            snapshot if self.runner.spec.needs_snapshots else None,
        )

    async def scores(
        self,
        rows: list[tuple[tuple[int, ...], Restore | None]],
        close: tuple[RowClose, ...] = (),
        beside: tuple[int, ...] = (),
    ) -> list[list[float]]:
        """What rows score that begin with what was restored, read the rest of their history and
        draw, all at once and `beside` others.
        """
        starts = [self.start(restore) for _, restore in rows]
        chunks = []
        for start, (history, restore) in zip(starts, rows, strict=True):
            context = restore.length if restore else 0
            chunks.append(Chunk(start.row, history[context:], context, 0))
        neighbours = tuple(Decode(row, 1) for row in beside)
        await self.step(
            StepPlan(close=close, open=tuple(starts), decode=neighbours, prefill=tuple(chunks))
        )
        await self.decode(*(start.row for start in starts), count=1)
        await self.decode(*(start.row for start in starts), *beside, count=SCORED - 2, first=2)
        await self.land()
        await self.step(StepPlan(close=tuple(RowClose(start.row) for start in starts)))
        return [logprobs(self.drawn[start.row]) for start in starts]

    async def score(
        self, history: tuple[int, ...], restore: Restore | None, close: tuple[RowClose, ...] = ()
    ) -> list[float]:
        [scores] = await self.scores([(history, restore)], close)
        return scores

    def scores_otherwise(self, row: int, expected: list[float]) -> bool:
        """True if one of the tokens that a row has drawn so far scores otherwise than is expected
        of it.
        """
        drawn = logprobs(self.drawn.get(row, []))
        return not close(drawn, expected[: len(drawn)])

    async def expected(self, history: tuple[int, ...]) -> list[float]:
        """What a row scores that reads everything."""
        key = (self.runner.spec.fingerprint, history)
        if key not in _scores:
            _scores[key] = await self.score(history, None)
        return _scores[key]


def lengths_of(memory: Memory) -> list[tuple[int, int]]:
    """Where to restore, and how many tokens to read then: inside of a block, around its end and
    beyond two; around windows, one token and several.
    """
    windows = {group.window for group in memory.runner.spec.groups if group.window}
    around = [
        (window + shift, further)
        for window in windows
        for shift in (-1, 0, 1)
        for further in (1, 5)
    ]
    return [(1, 1), (50, 5), (255, 1), (256, 5), (257, 1), (600, 5), *around]


async def is_noticed(
    memory: Memory, restore: Restore, history: tuple[int, ...] = prompt(RESTORED + 5)
) -> bool:
    """True once a token scores otherwise than in a row that read everything; no token is drawn
    after the first that does.
    """
    expected, start = await memory.expected(history), memory.start(restore)
    await memory.step(
        StepPlan(
            open=(start,), prefill=(Chunk(start.row, history[restore.length :], restore.length, 0),)
        )
    )
    for index in range(1, SCORED):
        if memory.scores_otherwise(start.row, expected):
            break
        await memory.decode(start.row, count=1, first=index)
    await memory.land()
    found = memory.scores_otherwise(start.row, expected)
    await memory.close(start.row)
    return found


async def refuses(memory: Memory, plan: StepPlan) -> bool:
    try:
        await memory.step(plan)
    except (AssertionError, KeyError, StepFailedError):
        await memory.forget_everything()
        return True
    return False
