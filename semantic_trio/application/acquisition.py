"""A model that a request waits for in a task of its own, so that the request can tell its client
meanwhile that it waits.

Knows how to wait and how to leave. Knows nothing of how a model is opened.
"""

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Generic

import attrs
import trio

from semantic_trio.application.model_entry import Model
from semantic_trio.domain.errors import SemanticError


@attrs.define(eq=False)
class Acquisition(Generic[Model]):
    """A model that is being acquired for one request, and held for it until `leave`."""

    _stack: ExitStack = attrs.field(init=False, factory=ExitStack)  # holds the model
    _scope: trio.CancelScope = attrs.field(init=False, factory=trio.CancelScope)
    _over: trio.Event = attrs.field(init=False, factory=trio.Event)
    _error: SemanticError | None = attrs.field(init=False, default=None)

    @property
    def is_over(self) -> bool:
        """True if the model is held, or acquiring it has failed."""
        return self._over.is_set()

    async def run(self, acquire: Callable[[ExitStack], Awaitable[Model]]) -> None:
        """Acquire the model; return when it is held, when that has failed, or when the request has
        left.
        """
        try:
            with self._scope:
                await acquire(self._stack)
        except SemanticError as error:
            self._error = error
        finally:
            # the request has left when the model was on its way already
            if self._scope.cancel_called:
                self._stack.close()
            self._over.set()

    async def wait(self) -> None:
        """Return when the model is held.

        Cancellation loses nothing. Raises what acquiring the model raises.
        """
        await self._over.wait()
        if self._error is not None:
            raise self._error

    def leave(self) -> None:
        """Release the model, or wait for it no more. What others wait for goes on."""
        self._scope.cancel()
        self._stack.close()
