"""The swap of the main model for another one.

Knows names and the models that are open. Knows nothing of requests: these ask whether a swap
concerns the model they name, and wait.
"""

from typing import Generic

import attrs
import structlog
import trio

from semantic_trio.application.model_entry import Changed, Model, ModelState, RegisteredModel
from semantic_trio.application.open_models import OpenModels
from semantic_trio.application.served_models import ServedModels
from semantic_trio.domain.errors import ModelNotFoundError, ModelSwapError, SemanticError
from semantic_trio.domain.observation import ModelSwapped
from semantic_trio.ports.observing import Observer

log = structlog.get_logger(__name__)


@attrs.define(eq=False)
class ModelSwaps(Generic[Model]):
    """The swaps of one server, one at a time."""

    models: ServedModels[Model]
    open_models: OpenModels[Model]
    observer: Observer  # of models that are swapped
    # models that become the main one, now or after other changes
    _wanted: list[str] = attrs.field(init=False, factory=list)

    def concerns(self, name: str) -> bool:
        """True if a swap may change which model the name stands for, or has the model closed or
        opened.
        """
        if not self._wanted:
            return False
        try:
            return self.models.names.resolve(name) in {self.models.names.main, *self._wanted}
        except ModelNotFoundError:  # it may be the name of the new model
            return True

    async def swap(self, name: str, tasks: trio.Nursery) -> Changed:
        """Make a model the main one, and serve it in a task of the nursery.

        Raises as `ModelRegistry.swap` does.
        """
        began = trio.current_time()
        await self.open_models.needed(name)  # what cannot be found ends no model
        self._wanted.append(name)
        try:
            async with self.open_models.lock:
                old, new = self.models.entry(self.models.names.main), self.models.entry(name)
                if old is not new:
                    await self._exchange(old, new, began, tasks)
                    self.observer.observe(
                        ModelSwapped(
                            model=name,
                            previous=old.name,
                            seconds=trio.current_time() - began,
                            is_done=True,
                        )
                    )
        finally:
            self._wanted.remove(name)
            self.models.note_change()
        seconds = trio.current_time() - began
        log.info("the main model has changed", model=name, seconds=round(seconds, 3))
        return Changed(name, seconds, new.bytes)

    async def _exchange(
        self,
        old: RegisteredModel[Model],
        new: RegisteredModel[Model],
        began: float,
        tasks: trio.Nursery,
    ) -> None:
        was_open = old.model is not None
        if was_open:
            await self.open_models.close(old, "swap")
        try:
            if new.state is not ModelState.READY:
                await self.open_models.close_others(new)
                await self.open_models.open(new, tasks)
        except SemanticError as error:
            # one that was not open has no memory of its own: the next request opens it
            is_back = not was_open or await self._is_open_again(old, tasks)
            seconds = trio.current_time() - began
            self.observer.observe(
                ModelSwapped(model=new.name, previous=old.name, seconds=seconds, is_done=False)
            )
            raise ModelSwapError(new.name, old.name, str(error), seconds, is_back) from error
        self.models.names.become_main(new.name)

    async def _is_open_again(self, entry: RegisteredModel[Model], tasks: trio.Nursery) -> bool:
        """Open the model from before a swap.

        Returns False if that fails too: the next request tries again.
        """
        try:
            await self.open_models.open(entry, tasks)
        except SemanticError:
            return False
        return True
