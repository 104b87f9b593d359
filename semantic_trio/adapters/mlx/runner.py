"""The model's side of a step: rows with their caches, one forward pass, one draw per row, one step
ahead.

Everything in `DeviceRows` runs on the device thread; `MlxRunner` is its face on the trio side.
"""

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar, cast

import attrs
import mlx.core as mx
import structlog

from semantic_trio.adapters.mlx.adapters import ModelAdapters
from semantic_trio.adapters.mlx.blocks import WarmStore
from semantic_trio.adapters.mlx.budget import free_bytes
from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.device import Device, PassClock
from semantic_trio.adapters.mlx.embedding import TextsReading, embedding_size, reads_together
from semantic_trio.adapters.mlx.forms import ModelForms
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.kv import InTurnLayout, Layout, RowSpan
from semantic_trio.adapters.mlx.loading import LoadedModel, Loading, weight_bytes
from semantic_trio.adapters.mlx.lora import LoadedAdapter
from semantic_trio.adapters.mlx.page_store import PageStore
from semantic_trio.adapters.mlx.paged import PagedLayout
from semantic_trio.adapters.mlx.row import Row
from semantic_trio.adapters.mlx.sampling import Draw, Draws, draw
from semantic_trio.domain.content import Content, Item
from semantic_trio.domain.embedding import (
    Pooling,
    batches,
    first_chunk_tokens,
    most_texts,
    next_chunk_tokens,
)
from semantic_trio.domain.errors import (
    CacheCorruptionError,
    InvalidRequestError,
    ModelNotFoundError,
    StepFailedError,
)
from semantic_trio.domain.geometry import BLOCK_TOKENS, ModelCacheSpec
from semantic_trio.domain.quantisation import AS_COMPUTED
from semantic_trio.domain.step import (
    BlockKey,
    Inventory,
    PassSizes,
    RowClose,
    RowStart,
    SampledToken,
    SaveBlock,
    SaveSnapshot,
    StepPlan,
    StepResult,
)

T = TypeVar("T")

log = structlog.get_logger(__name__)

# Steps after which MLX gives its unused buffers back: they grow with every new length and are never
# given back by themselves.
TIDY_EVERY = 256
# Parts of the weights after which a line is logged, where they are computed in several pieces.
PARTS_TOLD = 4


@attrs.define(eq=False)
class _Flight:
    """A pass that was started and not yet landed."""

    plan: StepPlan
    who: tuple[tuple[int, Draw], ...]  # row and manner of each draw
    draws: Draws | None
    read: list[mx.array]  # numbers out of the rows that read without drawing
    stuck: frozenset[int]  # rows whose draws are none
    started_at: float  # seconds on the monotonic clock
    is_seen: bool = False  # its rows know what they have drawn


@attrs.define(eq=False)
class DeviceRows:
    """The rows of one model."""

    layout: Layout
    look_ahead: bool = True
    clock: PassClock = attrs.field(factory=PassClock)
    block_tokens: int = BLOCK_TOKENS  # positions of a whole block
    store: WarmStore | PageStore = attrs.field(init=False)
    adapters: ModelAdapters = attrs.field(init=False)
    _rows: dict[int, Row] = attrs.field(init=False, factory=dict)
    _flight: _Flight | None = attrs.field(init=False, default=None)
    _steps: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self.store = PageStore(self.layout) if isinstance(self.layout, PagedLayout) else WarmStore()
        self.adapters = ModelAdapters(self.layout)

    def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`. Any exception leaves the rows in doubt."""
        for closing in plan.close:
            self._close(closing)
        self.store.drop(plan.drop_blocks, plan.drop_snapshots)
        for start in plan.open:
            self._open(
                start,
                room=1 + sum(len(chunk.tokens) for chunk in plan.prefill if chunk.row == start.row),
            )
        landing, self._flight = self._flight, self._take_off(plan) if plan.has_work else None
        for snapshot in plan.snapshots:
            self._save_snapshot(snapshot)
        result = self._land(landing) if landing is not None else StepResult()
        if self._flight is not None and (plan.has_drafts or not self.look_ahead):
            result, self._flight = result.followed_by(self._land(self._flight)), None
        self._tidy()
        return attrs.evolve(result, in_flight=self._flight is not None)

    def reset(self, keep: Sequence[SaveBlock] = ()) -> frozenset[BlockKey]:
        """See `ModelRunner.reset`."""
        self._flight = None
        kept = {
            block.key for row in {block.row for block in keep} for block in self._rescue(row, keep)
        }
        for row in self._rows.values():
            self.layout.close(row.caches)
        self._rows.clear()
        self.store.drop_unreadable()
        mx.clear_cache()
        return self.store.blocks & kept

    def load(self, items: Mapping[Item, Content]) -> None:
        """See `ModelRunner.load`."""
        self.store.load(items, self.forms)

    @property
    def used_adapters(self) -> list[LoadedAdapter]:
        """Adapters of open rows, each once."""
        return list(
            dict.fromkeys(row.adapter for row in self._rows.values() if row.adapter is not None)
        )

    def drop_adapter(self, digest: bytes) -> None:
        """Unload an adapter, if it is there, and give its memory back.

        Rows that are open keep it until they are closed.
        """
        self.adapters.drop(digest, self.used_adapters)
        mx.clear_cache()

    @functools.cached_property
    def forms(self) -> ModelForms:
        """Forms of the model's blocks and snapshots.

        Measuring them the first time takes as long as to begin a few passes.
        """
        return ModelForms.of(InTurnLayout(self.layout.model), self.block_tokens)

    def inventory(self) -> Inventory:
        """See `ModelRunner.inventory`."""
        return Inventory(frozenset(self._rows), self.store.blocks, self.store.snapshots)

    def _open(self, start: RowStart, room: int) -> None:
        assert start.row not in self._rows, "a row is opened once"
        row = Row(start, self.layout.open(), self.adapters[start.adapter])
        if start.restore is not None:
            self.store.restore(
                row.caches,
                start.restore,
                {number: other.caches for number, other in self._rows.items()},
                room,
            )
            row.length = start.restore.length
        self._rows[start.row] = row

    def _close(self, closing: RowClose) -> None:
        if closing.snapshot is not None:
            row = self._rows[closing.row]
            beyond = row.length - closing.snapshot.position
            assert beyond <= row.accepted, (
                f"a snapshot {beyond} tokens back in a row whose last pass accepted {row.accepted} "
                "drafts"
            )
            self._go_back(row, beyond)
            self._save_snapshot(closing.snapshot, is_last_use=True)
        self.store.save_blocks(self._rows[closing.row].caches, closing.blocks)
        self.layout.close(self._rows.pop(closing.row).caches)

    def _save_snapshot(self, snapshot: SaveSnapshot, *, is_last_use: bool = False) -> None:
        row = self._rows[snapshot.row]
        assert row.length == snapshot.position, (
            f"a snapshot at {snapshot.position} of a row that has read {row.length} tokens"
        )
        self.store.save_snapshot(self.layout.settled(row.caches), snapshot, is_last_use=is_last_use)

    def _rescue(self, number: int, keep: Sequence[SaveBlock]) -> list[SaveBlock]:
        """Save what can be read of a row in doubt, and say what that was."""
        row = self._rows.get(number)
        if row is None:
            return []
        blocks = [block for block in keep if block.row == number and block.stop <= row.length]
        try:
            self.store.save_blocks(row.caches, blocks)
        except Exception as error:  # noqa: BLE001 - the device has just failed: whatever it raises for this row, the row is lost
            log.warning(
                "row lost",
                **row.start.log_ids,
                row=number,
                reason=f"{type(error).__name__}: {error}",
            )
            return []
        return blocks

    def _take_off(self, plan: StepPlan) -> _Flight:
        """Start a pass.

        Draws that depend on those before wait for them; the pass itself does not.
        """
        started_at = time.monotonic()
        who = [(d.row, index) for d in plan.decode for index in d.indices] + [
            (c.row, c.draws) for c in plan.prefill if c.draws is not None
        ]
        spans = [
            RowSpan(
                self._rows[d.row].caches, len(d.indices), wants_logits=True, verifies=bool(d.drafts)
            )
            for d in plan.decode
        ]
        spans += [
            RowSpan(self._rows[c.row].caches, len(c.tokens), wants_logits=c.draws is not None)
            for c in plan.prefill
        ]
        users = [self._rows[row].adapter for row in plan.rows]
        logits = self.adapters.forward(self._inputs(plan), spans, users, self.used_adapters)
        self._count(plan)
        if self._flight is not None and any(
            self._rows[row].start.needs_sampled_ids for row, _ in who
        ):
            mx.async_eval(logits)
            self._look_at(self._flight)
        vocabulary = 0 if logits is None else logits.shape[-1]
        drawing = tuple((row, self._rows[row].draw(index, vocabulary)) for row, index in who)
        draws = self._draw(logits, drawing)
        written, read = self.layout.unread(
            [self._rows[c.row].caches for c in plan.prefill if c.draws is None]
        )
        mx.async_eval(draws.arrays if draws else [], written, read)
        stuck = frozenset(row for row, _ in who if self._rows[row].is_stuck)
        return _Flight(plan, drawing, draws, read, stuck, started_at)

    def _look_at(self, flight: _Flight) -> None:
        """Have the rows see what a pass has drawn for them: once."""
        if flight.draws is None or flight.is_seen:
            return
        flight.is_seen = True
        for (row, _), token in zip(
            flight.who, cast(list[int], flight.draws.tokens.tolist()), strict=True
        ):
            if row in self._rows:
                self._rows[row].observe_sampled(token)

    def _count(self, plan: StepPlan) -> None:
        for decode in plan.decode:
            row = self._rows[decode.row]
            row.length, row.accepted = row.length + len(decode.indices), 0
        for chunk in plan.prefill:
            assert chunk.context == self._rows[chunk.row].length, (
                "pieces of a prompt follow each other without gaps"
            )
            self._rows[chunk.row].length += len(chunk.tokens)

    def _inputs(self, plan: StepPlan) -> mx.array:
        """Tokens of the pass: those sampled last of the decoding rows, each with its drafts, then
        those of the prompts.

        One operation takes those of all rows that were sampled together, and one more puts drafts
        behind them.
        """
        pieces: list[mx.array] = []
        places: list[int] = []
        source: mx.array | None = None
        for array, place in (self._last(d.row) for d in plan.decode):
            if source is not None and array is not source:
                pieces.append(_picked(source, places))
                places = []
            source = array
            places.append(place)
        if source is not None:
            pieces.append(_picked(source, places))
        read = [token for decode in plan.decode for token in decode.drafts] + [
            token for chunk in plan.prefill for token in chunk.tokens
        ]
        if read:
            pieces.append(mx.array(read, dtype=mx.int32))
        tokens = pieces[0] if len(pieces) == 1 else mx.concatenate(pieces)
        return tokens[mx.array(_places(plan))] if plan.has_drafts else tokens

    def _last(self, row: int) -> tuple[mx.array, int]:
        last = self._rows[row].last
        assert last is not None, "a row decodes only after its prompt was read"
        return last

    def _draw(self, logits: mx.array | None, who: Sequence[tuple[int, Draw]]) -> Draws | None:
        if logits is None:
            return None
        draws = draw(logits, [one for _, one in who])
        for place, (row, _) in enumerate(who):
            self._rows[row].took(draws.tokens, place)
        return draws

    def _land(self, flight: _Flight) -> StepResult:
        """Wait for a pass and read what it drew."""
        mx.eval(flight.draws.arrays if flight.draws else [], flight.read)
        now = time.monotonic()
        seconds = now - max(flight.started_at, self.clock.finished_at)
        self.clock.finished_at = now
        self._look_at(flight)
        rejected = self._rewind(flight) if flight.plan.has_drafts else frozenset[int]()
        drawn = tuple(
            one
            for place, one in enumerate(_told(flight))
            if one.row not in flight.stuck and place not in rejected
        )
        return StepResult(drawn, flight.plan.timing(seconds), tuple(sorted(flight.stuck)))

    def _rewind(self, flight: _Flight) -> frozenset[int]:
        """Take what rows have read beyond their accepted drafts out of them.

        Returns the places of the draws behind that, which count for nothing.
        """
        assert flight.draws is not None, "rows with drafts draw"
        tokens, rejected, place = cast(list[int], flight.draws.tokens.tolist()), set[int](), 0
        for decode in flight.plan.decode:
            count = len(decode.indices)
            last = decode.accepted(tokens[place : place + count])
            if decode.drafts:
                row = self._rows[decode.row]
                self._go_back(row, count - 1 - last)
                row.took(flight.draws.tokens, place + last)
                row.accepted = last
            rejected.update(range(place + last + 1, place + count))
            place += count
        return frozenset(rejected)

    def _go_back(self, row: Row, count: int) -> None:
        """Take the last `count` positions out of a row, if that is any."""
        if count > 0:
            self.layout.rewind(row.caches, count)
            row.length -= count

    def _tidy(self) -> None:
        self._steps += 1
        if not self._rows or self._steps % TIDY_EVERY == 0:
            mx.clear_cache()


def _picked(tokens: mx.array, places: Sequence[int]) -> mx.array:
    """Tokens at these places; all of them without an operation."""
    return (
        tokens if list(places) == list(range(tokens.shape[0])) else tokens[mx.array(list(places))]
    )


def _places(plan: StepPlan) -> list[int]:
    """Places of the tokens of a pass with drafts, among the tokens sampled last, then all drafts,
    then the prompts.
    """
    found, draft = [], len(plan.decode)
    for place, decode in enumerate(plan.decode):
        found += [place, *range(draft, draft + len(decode.drafts))]
        draft += len(decode.drafts)
    return found + list(range(draft, draft + plan.prompt_tokens))


def _told(flight: _Flight) -> Iterator[SampledToken]:
    """Yield the tokens that the rows of a computed pass have drawn."""
    draws = flight.draws
    if draws is None:
        return
    tokens, logprobs = (
        cast(list[int], draws.tokens.tolist()),
        cast(list[float], draws.logprobs.tolist()),
    )
    for place, ((row, one), token, logprob) in enumerate(
        zip(flight.who, tokens, logprobs, strict=True)
    ):
        yield SampledToken(row, one.index, token, logprob, draws.likeliest(place, one.top))


@attrs.define(eq=False)
class MlxRunner:
    """A `ModelRunner` on a device's thread."""

    device: Device
    batch: DeviceRows
    spec: ModelCacheSpec
    embedding_size: int = 0
    embeds_together: bool = False  # several texts go through the model together

    @property
    def sizes(self) -> PassSizes:
        """Sizes of passes that the model is fast with on its device."""
        return self.batch.layout.sizes

    @property
    def layout(self) -> str:
        """See `ModelRunner.layout`."""
        return self.batch.layout.name

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        return await self._call(functools.partial(self.batch.step, plan))

    async def reset(self, keep: tuple[SaveBlock, ...] = ()) -> frozenset[BlockKey]:
        """See `ModelRunner.reset`."""
        return await self._call(functools.partial(self.batch.reset, keep))

    async def inventory(self) -> Inventory:
        """See `ModelRunner.inventory`."""
        return await self._call(self.batch.inventory)

    async def export(self, items: Sequence[Item]) -> Mapping[Item, Content]:
        """See `ModelRunner.export`.

        The content is where the originals are, and takes their memory for as long as somebody has
        it.
        """
        return await self._call(functools.partial(self.batch.store.export, items))

    async def load(self, items: Mapping[Item, Content]) -> None:
        """See `ModelRunner.load`."""
        await self._call(functools.partial(self.batch.load, items))

    async def embed(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[tuple[float, ...]]:
        """See `ModelRunner.embed`."""
        vectors: dict[int, tuple[float, ...]] = {}
        for batch in batches([len(text) for text in texts]):
            most = await self._call(functools.partial(self._most_texts, len(texts[batch[0]])))
            for first in range(0, len(batch), most):
                some = batch[first : first + most]
                vectors |= zip(
                    some,
                    await self._embed_together([texts[place] for place in some], pooling),
                    strict=True,
                )
        await self._call(mx.clear_cache)
        return [vectors[place] for place in range(len(texts))]

    async def _embed_together(
        self, texts: Sequence[Sequence[int]], pooling: Pooling
    ) -> list[tuple[float, ...]]:
        reading = await self._call(functools.partial(TextsReading, self.batch.layout.model, texts))
        size = first_chunk_tokens(len(texts))
        while not reading.is_read:
            size = next_chunk_tokens(
                size, await self._call(functools.partial(reading.read, size)), len(texts)
            )
        return await self._call(functools.partial(reading.vectors, pooling))

    def _most_texts(self, tokens: int) -> int:
        """Return how many texts of so many tokens may be read together: fewer where memory is
        short.
        """
        if not self.embeds_together:
            return 1
        return most_texts(sum(group.bytes_at(tokens) for group in self.spec.groups), free_bytes())

    async def load_adapter(self, path: Path, name: str, digest: bytes) -> int:
        """Load an adapter of this digest from a directory, unless it is there, and return its
        bytes.

        Raises `ModelNotFoundError` for files that are missing or damaged, or do not fit the model;
        `StepFailedError` when the device raises.
        """
        return await self._call(functools.partial(self.batch.adapters.load, path, name, digest))

    async def drop_adapter(self, digest: bytes) -> None:
        """Unload an adapter, if it is there. Raises `StepFailedError` when the device raises."""
        await self._call(functools.partial(self.batch.drop_adapter, digest))

    async def _call(self, function: Callable[[], T]) -> T:
        """Call a function on the device's thread and return its result.

        Raises `StepFailedError` for all that the device may raise.
        """
        try:
            return await self.device.call(function)
        except (CacheCorruptionError, ModelNotFoundError):
            raise
        except Exception as error:
            raise StepFailedError(f"{type(error).__name__}: {error}") from error


async def load_runner(
    device: Device, path: Path, kv_bits: int = AS_COMPUTED, block_tokens: int = BLOCK_TOKENS
) -> tuple[MlxRunner, LoadedModel]:
    """Load a model onto a device: its runner, which keeps keys and values with `kv_bits` in blocks
    of `block_tokens`, and what is known of it.

    Raises `ModelNotFoundError` where there is no usable model, and `InvalidRequestError` where its
    keys and values cannot have so few bits.
    """
    loading = await device.call(lambda: Loading(path, kv_bits, block_tokens))
    part = 0
    while await device.call(loading.advance):
        if (reached := PARTS_TOLD * loading.computed_bytes // loading.total_bytes) > part:
            part = reached
            log.info("loading weights", bytes=loading.computed_bytes, of=loading.total_bytes)
    loaded = await device.call(loading.finish)
    runner = await device.call(lambda: _runner_of(device, path, loaded, kv_bits, block_tokens))
    if loaded.notice:
        log.warning(loaded.notice)
    log.info("model loaded", layout=runner.layout, context_length=loaded.context_length)
    return runner, loaded


async def needed_weight_bytes(device: Device, path: Path) -> int:
    """Return the bytes that a model's weights would take on a device.

    Raises `ModelNotFoundError`.
    """
    return await device.call(lambda: weight_bytes(path))


def _runner_of(
    device: Device, path: Path, loaded: LoadedModel, kv_bits: int, block_tokens: int
) -> MlxRunner:
    try:
        batch = DeviceRows(
            choose_layout(loaded.model, kv_bits, block_tokens),
            clock=device.clock,
            block_tokens=block_tokens,
        )
        spec = measure_spec(
            loaded.model,
            loaded.fingerprint,
            is_paged=isinstance(batch.layout, PagedLayout),
            block_tokens=block_tokens,
        )
        runner = MlxRunner(
            device, batch, spec, embedding_size(loaded.model), reads_together(loaded.model)
        )
        runner.batch.forms  # noqa: B018 - learnt now, not while somebody waits
    except InvalidRequestError:
        raise
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
        raise ModelNotFoundError(
            str(path), f"mlx-lm loads it, but cannot compute it: {reason}"
        ) from error
    return runner
