"""The adapters of one model: which are loaded, and how the rows of a step that use them go through
the model.

Everything here runs on the device thread. Knows layouts and adapters. Knows nothing of plans or
requests.
"""

import itertools
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import mlx.core as mx
from mlx.nn.layers.base import Module

from semantic_trio.adapters.mlx.kv import Layout, RowSpan
from semantic_trio.adapters.mlx.lora import (
    NO_STACK,
    AdaptableLayer,
    AdapterStack,
    LoadedAdapter,
    adapt,
    replace,
)
from semantic_trio.domain.salt import NO_ADAPTER


@attrs.define(eq=False)
class ModelAdapters:
    """The adapters of the model of a layout. An adapter is known by the digest of its content."""

    layout: Layout
    _loaded: dict[bytes, LoadedAdapter] = attrs.field(init=False, factory=dict)
    # the model's own, by path, of those that are adaptable now
    _layers: dict[str, Module] = attrs.field(init=False, factory=dict)

    def __getitem__(self, digest: bytes) -> LoadedAdapter | None:
        """Return a loaded adapter; None for the model without one."""
        return self._loaded[digest] if digest != NO_ADAPTER else None

    def load(self, path: Path, name: str, digest: bytes) -> int:
        """Load an adapter, unless it is there, and return its bytes.

        Raises as `adapt` does, with nothing changed.
        """
        if digest not in self._loaded:
            adaptable = self._layers
            self._make_adaptable({})
            try:
                self._loaded[digest] = adapt(self.layout.model, path, name)
            finally:
                self._make_adaptable(
                    [
                        *adaptable,
                        *(path for adapter in self._loaded.values() for path in adapter.layers),
                    ]
                )
        return self._loaded[digest].bytes

    def drop(self, digest: bytes, used: Collection[LoadedAdapter]) -> None:
        """Unload an adapter, if it is there. The layers of those in use stay adaptable."""
        self._loaded.pop(digest, None)
        kept = [*self._loaded.values(), *used]
        self.layout.adapters.stack = NO_STACK
        self._make_adaptable([path for adapter in kept for path in adapter.layers])

    def forward(
        self,
        tokens: mx.array,
        spans: Sequence[RowSpan],
        users: Sequence[LoadedAdapter | None],
        all_used: Collection[LoadedAdapter],
    ) -> mx.array | None:
        """Do as `Layout.forward` does, each span with the adapter of its row.

        `all_used`: those of all open rows, to be stacked at once.
        """
        if not any(users):
            self.layout.adapters.stack = self.layout.adapters.stack if all_used else NO_STACK
            return self.layout.forward(tokens, spans)
        self._stack([adapter for adapter in users if adapter is not None], all_used)
        groups = self._groups(users)
        ends = list(itertools.accumulate(span.count for span in spans))
        found: list[tuple[list[int], mx.array]] = []
        for number, (alone, members) in enumerate(groups.items()):
            if number:
                self._launch([logits for _, logits in found], spans)
            places = [
                place for at in members for place in range(ends[at] - spans[at].count, ends[at])
            ]
            some = tokens if len(groups) == 1 else tokens[mx.array(places)]
            logits = self._pass(
                some, [self._slotted(spans[at], users[at]) for at in members], alone
            )
            if logits is not None:
                found.append(([at for at in members for _ in range(spans[at].wanted)], logits))
        return _in_order(found)

    def _pass(
        self, tokens: mx.array, spans: Sequence[RowSpan], alone: LoadedAdapter | None
    ) -> mx.array | None:
        """Logits of spans that may share passes; `alone` is the adapter of them all, where that
        shares no pass.
        """
        self.layout.adapters.alone = alone
        try:
            return self.layout.forward(tokens, spans)
        finally:
            self.layout.adapters.alone = None

    def _launch(self, logits: Sequence[mx.array], spans: Sequence[RowSpan]) -> None:
        """Start to compute a pass: the next one may write in place what it reads."""
        written, _ = self.layout.unread([span.caches for span in spans])
        mx.async_eval(list(logits), written)

    def _groups(
        self, users: Sequence[LoadedAdapter | None]
    ) -> dict[LoadedAdapter | None, list[int]]:
        """Return the places of spans that go together: all that may share a pass, under None, and
        those of each other adapter.
        """
        groups: dict[LoadedAdapter | None, list[int]] = {}
        for at, adapter in enumerate(users):
            groups.setdefault(
                None if adapter is None or adapter.shares_passes else adapter, []
            ).append(at)
        return groups

    def _stack(self, wanted: Sequence[LoadedAdapter], all_used: Collection[LoadedAdapter]) -> None:
        """Have all adapters that share passes in the stack, and no others but those of open
        rows.
        """
        held = self.layout.adapters.stack.adapters
        if any(adapter.shares_passes and adapter not in held for adapter in wanted):
            self.layout.adapters.stack = AdapterStack.of(
                dict.fromkeys(adapter for adapter in all_used if adapter.shares_passes)
            )

    def _slotted(self, span: RowSpan, adapter: LoadedAdapter | None) -> RowSpan:
        stack = self.layout.adapters.stack
        return (
            attrs.evolve(span, slot=stack.slot(adapter))
            if adapter is not None and adapter.shares_passes
            else span
        )

    def _make_adaptable(self, paths: Collection[str]) -> None:
        """Make the layers at these paths adaptable, and no others."""
        model = self.layout.model
        replace(model, self._layers)
        modules = dict(cast(Any, model).named_modules()) if paths else {}
        self._layers = {path: modules[path] for path in paths}
        replace(
            model,
            {
                path: AdaptableLayer(layer, path, self.layout.adapters)
                for path, layer in self._layers.items()
            },
        )


def _in_order(found: Sequence[tuple[list[int], mx.array]]) -> mx.array | None:
    """Logits of several groups in the order of the spans."""
    if not found:
        return None
    if len(found) == 1:
        return found[0][1]
    places = [at for members, _ in found for at in members]
    order = sorted(range(len(places)), key=places.__getitem__)
    return mx.concatenate([logits for _, logits in found])[mx.array(order)]
