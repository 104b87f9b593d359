"""The models that the requests of one server may name, open or not, and their users.

Knows names, entries and the order in which models were used. Knows nothing of how a model is
opened or closed, or of limits on memory.
"""

from contextlib import ExitStack
from typing import Generic

import attrs
import trio

from semantic_trio.application.model_entry import Model, ModelState, RegisteredModel
from semantic_trio.domain.model_names import ModelNames


@attrs.define(eq=False)
class ServedModels(Generic[Model]):
    """The models of one server by their own names, and the requests that use them."""

    names: ModelNames
    _entries: dict[str, RegisteredModel[Model]] = attrs.field(init=False, factory=dict)
    _uses: int = attrs.field(init=False, default=0)  # of all models, begun or ended
    _changed: trio.Event = attrs.field(init=False, factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        for name in self.names.served:
            self.entry(name)

    @property
    def residents(self) -> tuple[Model, ...]:
        """All open models, the main one first."""
        return tuple(entry.model for entry in self.entries if entry.model is not None)

    @property
    def entries(self) -> tuple[RegisteredModel[Model], ...]:
        """All models that are served, open or not, the main one first."""
        return tuple(self._entries[name] for name in self.names.served)

    @property
    def known(self) -> tuple[RegisteredModel[Model], ...]:
        """All models that ever were named to the server, also those it serves no more."""
        return tuple(self._entries.values())

    @property
    def open_entries(self) -> list[RegisteredModel[Model]]:
        """The models that are open."""
        return [entry for entry in self._entries.values() if entry.model is not None]

    @property
    def main(self) -> Model | None:
        """The main model, if it is open."""
        return self.entry(self.names.main).model

    def entry(self, name: str) -> RegisteredModel[Model]:
        """Return the entry of a model's own name."""
        return self._entries.setdefault(name, RegisteredModel(name))

    def adopt(self, name: str, model: Model) -> None:
        """Serve a model that is open."""
        entry = self.entry(name)
        entry.state, entry.model, entry.card, entry.failure = (
            ModelState.READY,
            model,
            model.card,
            "",
        )
        self.note_change()

    def hold(self, model: Model, stack: ExitStack) -> None:
        """Keep an open model open until the stack is closed."""
        entry = next(entry for entry in self.entries if entry.model is model)
        entry.users += 1
        self.note_use(entry)
        stack.callback(self._release, entry)

    async def without_users(self, entry: RegisteredModel[Model], seconds: float) -> bool:
        """Return True when no request uses the model, and False if one does after some seconds."""
        with trio.move_on_after(seconds):
            while entry.users:
                await self.next_change()
        return not entry.users

    def _release(self, entry: RegisteredModel[Model]) -> None:
        entry.users -= 1
        self.note_use(entry)

    def note_use(self, entry: RegisteredModel[Model]) -> None:
        """Note that a request has begun or ended to use a model: it is the last one used."""
        self._uses += 1
        entry.used, entry.idle_since = self._uses, trio.current_time()
        self.note_change()

    def note_change(self) -> None:
        """Have what waits for a change of any model look at it again."""
        self._changed.set()
        self._changed = trio.Event()

    async def next_change(self) -> None:
        """Return when the state or the users of any model have changed."""
        await self._changed.wait()
