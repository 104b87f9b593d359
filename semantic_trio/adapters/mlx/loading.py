"""Loads a model directory onto the device. Everything here runs on the device's thread.

On a GPU weights stay as they were published. MLX's CPU backend computes quantised and
half-precision products in slow scalar code, so there they become float32, memory permitting.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module
from mlx.utils import tree_flatten
from mlx_lm.utils import dequantize_model, load_model

from semantic_trio.adapters.mlx.fingerprint import fingerprint
from semantic_trio.adapters.mlx.host_memory import available_bytes
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.quantisation import AS_COMPUTED, GROUPS

# Part of the memory that is left which weights may take: caches and activations need the rest.
WEIGHTS_SHARE = 0.8
# Where config.json bounds the context by none of these names, as recurrent models have it.
CONTEXT_NAMES = (
    "max_position_embeddings",
    "n_positions",
    "max_seq_len",
    "max_sequence_length",
    "seq_length",
    "model_max_length",
)
UNBOUNDED_CONTEXT = 32_768
# Bytes of weights computed at a time: about the time of one step, for other models wait for it.
PIECE_BYTES = 64 << 20
GIB = 2**30


@attrs.frozen(eq=False)
class LoadedModel:
    """A model ready to compute, and what is known of it."""

    model: Module
    config: Mapping[str, object]  # config.json, with the stop ids of generation_config.json
    context_length: int  # tokens, prompt and answer together
    vocab_size: int
    eos_token_ids: frozenset[int]
    dtype: mx.Dtype  # of most of what is not quantised
    weight_bytes: int
    fingerprint: str  # see `fingerprint`: with these weights, held as they are held here
    notice: str = ""  # a line for whoever runs this, where speed was given up


@attrs.define(eq=False)
class Loading:
    """A model whose weights are computed piece by piece, so that the device can do other work in
    between.

    Raises `ModelNotFoundError` when there is no model MLX can run, or not enough memory for it.
    """

    path: Path
    kv_bits: int = AS_COMPUTED  # of keys and values that will be kept; a part of the fingerprint
    block_tokens: int = BLOCK_TOKENS  # positions of a block of them; a part of the fingerprint
    _model: Module = attrs.field(init=False)
    _config: dict[str, object] = attrs.field(init=False)
    _notice: str = attrs.field(init=False, default="")
    _left: list[mx.array] = attrs.field(init=False)  # weights that are not computed yet
    total_bytes: int = attrs.field(init=False)  # of all weights
    computed_bytes: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        room = available_bytes() if _on_cpu() and sys.platform == "linux" else None
        self._model, self._config = _lazy(self.path)
        _check_room(self.path, self._model, room)
        if _on_cpu():
            self._model, self._notice = _for_cpu(self.path, room)
        self._left = _arrays(self._model)[::-1]
        self.total_bytes = sum(array.nbytes for array in self._left)

    def advance(self) -> bool:
        """Compute a piece of the weights. Returns False if that was the last one."""
        size = 0
        while self._left and size < PIECE_BYTES:
            # one after the other: the quantised form of each goes before the next is computed
            array = self._left.pop()
            mx.eval(array)
            size += array.nbytes
        self.computed_bytes += size
        return bool(self._left)

    def finish(self) -> LoadedModel:
        """Return the model; its weights are computed."""
        dtype, weight_bytes = _main_dtype(self._model), _bytes(self._model)
        return LoadedModel(
            model=self._model,
            config=self._config,
            context_length=context_length(self._config),
            vocab_size=int(_text_config(self._config).get("vocab_size") or 0),
            eos_token_ids=eos_token_ids(self._config),
            dtype=dtype,
            weight_bytes=weight_bytes,
            fingerprint=fingerprint(
                self.path, _held(dtype, weight_bytes, self.kv_bits, self.block_tokens)
            ),
            notice=self._notice,
        )


def load(path: Path, kv_bits: int = AS_COMPUTED, block_tokens: int = BLOCK_TOKENS) -> LoadedModel:
    """Load a model from a directory and compute its weights. Raises as `Loading` does."""
    loading = Loading(path, kv_bits, block_tokens)
    while loading.advance():
        pass
    return loading.finish()


def weight_bytes(path: Path) -> int:
    """Return the bytes of a model's weights as they would be held here, memory permitting.

    Raises `ModelNotFoundError`.
    """
    return _bytes(_float32(path, dequantise=True) if _on_cpu() else _lazy(path)[0])


def context_length(config: Mapping[str, object]) -> int:
    """The most tokens a model was made for, stretched where its rotary scaling says so and mlx-lm
    follows.
    """
    text = _text_config(config)
    stated = next((int(text[name]) for name in CONTEXT_NAMES if text.get(name)), UNBOUNDED_CONTEXT)
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    original, factor = scaling.get("original_max_position_embeddings"), scaling.get("factor")
    return max(stated, int(original * factor)) if original and factor else stated


def eos_token_ids(config: Mapping[str, object]) -> frozenset[int]:
    """The ids config.json and generation_config.json end a text with."""
    ids = config.get("eos_token_id", _text_config(config).get("eos_token_id"))
    return frozenset(ids if isinstance(ids, list) else [ids] if isinstance(ids, int) else [])


def _lazy(path: Path) -> tuple[Module, dict[str, object]]:
    """The model without its weights in memory."""
    try:
        model, config = load_model(path, lazy=True)
    except (Exception, SystemExit) as error:
        # Missing files, unknown architectures, weights that do not belong to the configuration:
        # each raises what it likes, or ends the process.
        raise ModelNotFoundError(str(path), f"cannot be loaded: {_first_line(error)}") from error
    _forget_initial_weights()
    return cast(Module, model), cast(dict[str, object], config)


def _for_cpu(path: Path, room: int | None) -> tuple[Module, str]:
    """The fastest form of the model that fits, still lazy, and what to say if it is not float32 all
    through.

    Half precision is what a CPU is slowest at: a token of SmolLM2 takes 0.05 s in float32, 0.12 s
    with 4-bit weights under float32 scales, and 4 s with the same under their published float16
    ones.
    """
    wide = _float32(path, dequantise=True)
    if _fits(_bytes(wide), room):
        return wide, ""
    assert room is not None
    shortage = (
        f"float32 weights need {_bytes(wide) / GIB:.1f} GiB, {room / GIB:.1f} GiB of memory are "
        "left"
    )
    packed = _float32(path, dequantise=False)
    if _fits(_bytes(packed), room):
        return packed, f"{shortage}: they stay quantised, which is slower"
    return _lazy(path)[0], f"{shortage}: running as published, which is many times slower"


def _float32(path: Path, *, dequantise: bool) -> Module:
    """The model with float32 wherever it is not quantised; scales first, so that dequantised
    weights are not rounded to their half precision.
    """
    model, _ = _lazy(path)
    model.set_dtype(mx.float32)
    if dequantise:
        model = cast(Module, dequantize_model(model))
        model.set_dtype(mx.float32)
        _forget_initial_weights()
    return model


def _forget_initial_weights() -> None:
    """Free the graph of the random weights that layers were made with.

    Each layer takes its random key from MLX's global key. A key that is not computed refers to all
    keys before it: 2 KB for each matrix of each model that was ever loaded.
    """
    mx.eval(mx.random.state)


def _check_room(path: Path, model: Module, room: int | None) -> None:
    if room is not None and not _fits(_bytes(model), room):
        raise ModelNotFoundError(
            str(path),
            (
                f"its weights need {_bytes(model) / GIB:.1f} GiB of memory, {room / GIB:.1f} GiB "
                "are left"
            ),
        )


def _fits(weights: int, room: int | None) -> bool:
    return room is None or weights <= room * WEIGHTS_SHARE


def _on_cpu() -> bool:
    return mx.default_device() == mx.Device(mx.cpu)


def _arrays(model: Module) -> list[mx.array]:
    parameters = cast(Any, model).parameters()  # neither it nor the flattening is typed
    return [cast(mx.array, array) for _, array in cast(Any, tree_flatten)(parameters)]


def _bytes(model: Module) -> int:
    return sum(array.nbytes for array in _arrays(model))


def _main_dtype(model: Module) -> mx.Dtype:
    sizes: dict[mx.Dtype, int] = {}
    for array in _arrays(model):
        if mx.issubdtype(array.dtype, mx.floating):
            sizes[array.dtype] = sizes.get(array.dtype, 0) + array.size
    return max(sizes, key=sizes.__getitem__)


def _text_config(config: Mapping[str, object]) -> dict[str, Any]:
    """The part about language: models that also see keep it in a part of its own."""
    text = config.get("text_config")
    return {**config, **text} if isinstance(text, dict) else dict(config)


def _held(dtype: mx.Dtype, weight_bytes: int, kv_bits: int, block_tokens: int) -> str:
    """Form of the weights, keys and values in this process.

    The bytes tell weights that stayed quantised from those that did not.

    Default values are left out: directories that were written before there was a choice stay
    readable.
    """
    bits = (
        ""
        if kv_bits == AS_COMPUTED
        else f", keys and values of {kv_bits} bits in groups of {GROUPS}"
    )
    blocks = "" if block_tokens == BLOCK_TOKENS else f", blocks of {block_tokens} tokens"
    return f"{dtype} in {weight_bytes} bytes{bits}{blocks}"


def _first_line(error: BaseException) -> str:
    if isinstance(error, KeyError):
        return f"config.json has no {error}"
    return str(error).strip().partition("\n")[0] or type(error).__name__
