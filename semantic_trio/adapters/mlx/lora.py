"""Adapters of a model, in mlx-lm's format: read from files, and added to the layers of a model for
the rows that use them.

Knows layers and arrays. Knows nothing of requests, and nothing of how rows go through a model.
Layers of the kind `LoRALinear` take the rows of several adapters in one pass; others (DoRA,
experts, embeddings) take those of one.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_unflatten
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.tuner.dora import DoRAEmbedding, DoRALinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from mlx_lm.tuner.utils import load_adapters

from semantic_trio.adapters.mlx.body import body_of
from semantic_trio.domain.errors import ModelNotFoundError

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
# Ways of training whose result is an adapter: a full fine-tune is a model of its own.
TRAINED = ("lora", "dora")
KINDS = (LoRALinear, LoRASwitchLinear, LoRAEmbedding, DoRALinear, DoRAEmbedding)
PARAMETERS = ("lora_a", "lora_b", "m")
# Rows and tokens of the pass that shows which layers see the rows of a pass as its rows. No
# dimension of a model is like these by chance.
PROBE_ROWS, PROBE_WIDTH = 3, 2

Layer = Callable[..., mx.array]  # a module: mlx types none as one that can be called


@attrs.frozen(eq=False)
class LoadedAdapter:
    """An adapter of one model, in memory."""

    # by its path in the model, the module that mlx-lm puts in the place of a layer
    layers: Mapping[str, Any]
    shares_passes: bool  # rows of other adapters may be in the same pass

    @property
    def bytes(self) -> int:
        """Bytes of its weights."""
        return sum(array.nbytes for array in self.arrays)

    @property
    def arrays(self) -> list[mx.array]:
        """All weights of the adapter."""
        return [
            layer[name] for layer in self.layers.values() for name in PARAMETERS if name in layer
        ]


@attrs.frozen(eq=False)
class StackedLayer:
    """Weights of a layer's adapters side by side."""

    down: mx.array  # (size of the input, all ranks)
    up: mx.array  # (all ranks, size of the output)
    columns: tuple[int, ...]  # slot of the adapter that each rank belongs to


@attrs.frozen(eq=False)
class AdapterStack:
    """Adapters that share passes.

    An adapter's slot is its place here, counted from 1; 0 stands for none.
    """

    adapters: tuple[LoadedAdapter, ...]
    layers: Mapping[str, StackedLayer]

    @classmethod
    def of(cls, adapters: Iterable[LoadedAdapter]) -> "AdapterStack":
        """Stack adapters. Lazy."""
        members = tuple(adapters)
        paths = dict.fromkeys(path for adapter in members for path in adapter.layers)
        return cls(
            members,
            {path: _stacked([adapter.layers.get(path) for adapter in members]) for path in paths},
        )

    def slot(self, adapter: LoadedAdapter | None) -> int:
        """Return the slot of an adapter, 0 for none."""
        return 0 if adapter is None else self.adapters.index(adapter) + 1


NO_STACK = AdapterStack((), {})


@attrs.define(eq=False)
class AdapterPass:
    """The adapters of the pass that is being built.

    Read by the layers of a model, so that they are the same object for its life.
    """

    stack: AdapterStack = NO_STACK
    alone: LoadedAdapter | None = None  # the one adapter of all rows, where it shares no pass
    _slots: mx.array | None = None  # (rows of the pass, 1); None: no row uses an adapter
    _masks: dict[tuple[int, ...], mx.array] = attrs.field(factory=dict)

    @property
    def is_used(self) -> bool:
        """True if a row of the pass uses an adapter."""
        return self.alone is not None or self._slots is not None

    @contextlib.contextmanager
    def rows(self, slots: Sequence[int], height: int = 0) -> Iterator[None]:
        """Have the rows of the pass use the adapters of these slots until exit.

        Rows up to `height` are padding.
        """
        if any(slots):
            self._slots = mx.array([[slot] for slot in slots] + [[0]] * (height - len(slots)))
        try:
            yield
        finally:
            self._slots = None
            self._masks.clear()

    def layer_of(self, layer: "AdaptableLayer") -> Layer:
        """Return the layer of the adapter that has the pass for itself, else the plain layer."""
        alone: Mapping[str, Layer] = self.alone.layers if self.alone is not None else {}
        return alone.get(layer.path, layer.base)

    def apply(
        self, layer: "AdaptableLayer", x: mx.array, *more: object, **named: object
    ) -> mx.array:
        """Return what a layer makes of its input, with the adapters of the pass."""
        if self.alone is not None:
            return self.layer_of(layer)(x, *more, **named)
        y = layer.base(x, *more, **named)
        weights = self.stack.layers.get(layer.path) if self._slots is not None else None
        if weights is None:
            return y
        low = mx.where(self._mask(weights.columns), x @ weights.down, 0)
        return y + (low @ weights.up).astype(x.dtype)

    def _mask(self, columns: tuple[int, ...]) -> mx.array:
        """(rows, 1, ranks) True where a rank is one of the row's adapter."""
        assert self._slots is not None, "a pass without adapters has no mask"
        if columns not in self._masks:
            self._masks[columns] = self._slots[..., None] == mx.array(columns)
        return self._masks[columns]


class AdaptableLayer(Module):
    """A layer that some adapter changes.

    Without an adapter in the pass it is the layer as it was.
    """

    def __init__(self, base: Layer, path: str, now: AdapterPass) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.path, self.now, self.base = path, now, base

    def __call__(self, x: mx.array, *more: object, **named: object) -> mx.array:
        """See `AdapterPass.apply`."""
        return self.now.apply(self, x, *more, **named)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever a layer has
        """Other attributes are those of the layer that the pass uses.

        Models ask a tied embedding for the logits (`as_linear`), and some read a layer's weight.
        """
        base = self.get("base")
        if base is None or name in self:
            return super().__getattr__(name)
        return getattr(self.now.layer_of(self), name)


class _Seen(Module):
    """A layer that notes the shapes of its inputs."""

    def __init__(self, base: Layer, note: Callable[[tuple[int, ...]], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.base, self.note = base, note

    def __call__(self, x: mx.array, *more: object, **named: object) -> mx.array:
        self.note(tuple(x.shape))
        return self.base(x, *more, **named)


def adapt(model: Module, path: Path, name: str) -> LoadedAdapter:
    """Read an adapter for a model whose layers are its own.

    The model stays as it is, and the adapter's weights are computed.

    Raises `ModelNotFoundError` for files that are missing or damaged, or do not fit the model.
    """
    _refuse_foreign(path, name)
    plain = dict(cast(Any, model).named_modules())
    try:
        load_adapters(model, str(path))
    except (
        Exception
    ) as error:  # whatever mlx-lm raises for configurations and weights that do not belong together
        raise ModelNotFoundError(
            name, f"the adapter does not fit the model: {_one_line(error)}"
        ) from error
    finally:
        layers = {
            at: module
            for at, module in cast(Any, model).named_modules()
            if isinstance(module, KINDS)
        }
        replace(model, {at: plain[at] for at in layers})
    _refuse_incomplete(path, name, layers)
    for layer in layers.values():
        layer.eval()  # no dropout
    adapter = LoadedAdapter(layers, _shares_passes(model, layers))
    mx.eval(adapter.arrays)
    return adapter


def replace(model: Module, layers: Mapping[str, Module]) -> None:
    """Put modules in the place of those at their paths."""
    if layers:
        cast(Any, model).update_modules(tree_unflatten(list(layers.items())))


def _refuse_foreign(path: Path, name: str) -> None:
    """Raise `ModelNotFoundError` for a directory that holds no adapter which can be read."""
    for file in (CONFIG, WEIGHTS):
        if not (path / file).is_file():
            raise ModelNotFoundError(name, f"the adapter has no {file}")
    try:
        config = json.loads((path / CONFIG).read_bytes())
    except ValueError as error:
        raise ModelNotFoundError(name, f"{CONFIG} of the adapter is damaged: {error}") from error
    kind = config.get("fine_tune_type", TRAINED[0]) if isinstance(config, dict) else None
    if kind not in TRAINED:
        raise ModelNotFoundError(
            name, f"fine_tune_type of the adapter is {kind!r}; adapters are {' or '.join(TRAINED)}"
        )


def _refuse_incomplete(path: Path, name: str, layers: Mapping[str, Module]) -> None:
    """Raise `ModelNotFoundError` where a layer would be left with the random weights that training
    begins with.
    """
    held = cast(Mapping[str, mx.array], mx.load(str(path / WEIGHTS)))
    missing = [
        f"{at}.{leaf}"
        for at, layer in layers.items()
        for leaf in PARAMETERS
        if leaf in layer and f"{at}.{leaf}" not in held
    ]
    if missing or not layers:
        reason = (
            f"{len(missing)} weights are missing, the first is {missing[0]}"
            if missing
            else "it changes no layer of the model"
        )
        raise ModelNotFoundError(name, f"the adapter does not fit the model: {reason}")


def _shares_passes(model: Module, layers: Mapping[str, Module]) -> bool:
    """True if all layers are linear, and see the rows of a pass as the first dimension of their
    input.

    Layers behind the body, as the head, do not: they see the tokens that are sampled behind.
    Nothing is computed.
    """
    if any(type(layer) is not LoRALinear for layer in layers.values()):
        return False
    plain, seen = dict(cast(Any, model).named_modules()), dict[str, set[tuple[int, ...]]]()
    inside = {id(module) for module in cast(Any, body_of(model)).modules()}
    if any(id(plain[at]) not in inside for at in layers):
        return False
    replace(model, {at: _Seen(plain[at], seen.setdefault(at, set()).add) for at in layers})
    try:
        cast(Any, model)(
            mx.zeros((PROBE_ROWS, PROBE_WIDTH), mx.int32), cache=make_prompt_cache(model)
        )
    except (IndexError, RuntimeError, TypeError, ValueError):
        return False  # a model whose caches take one row
    finally:
        replace(model, {at: plain[at] for at in layers})
    return all(
        shapes
        and all(len(shape) == 3 and shape[:2] == (PROBE_ROWS, PROBE_WIDTH) for shape in shapes)
        for shapes in seen.values()
    )


def _stacked(layers: Sequence[Any]) -> StackedLayer:
    """Stack what adapters have for one layer; None where one has nothing.

    The scale is multiplied into one of the factors.
    """
    there = [(slot, layer) for slot, layer in enumerate(layers, 1) if layer is not None]
    columns = tuple(slot for slot, layer in there for _ in range(layer.lora_a.shape[1]))
    down = _joined([layer.lora_a for _, layer in there], axis=1)
    up = _joined([layer.scale * layer.lora_b for _, layer in there], axis=0)
    return StackedLayer(down, up, columns)


def _joined(parts: Sequence[mx.array], axis: int) -> mx.array:
    return parts[0] if len(parts) == 1 else mx.concatenate(list(parts), axis=axis)


def _one_line(error: Exception) -> str:
    """Return the first detail of an error: mlx-lm lists all tensors that do not fit, each in a
    line.
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0] if lines else type(error).__name__)[:300]
