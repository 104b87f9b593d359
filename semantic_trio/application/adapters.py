"""Adapters of an open model: found by name, loaded for the first request that names one, and
unloaded on demand.

Knows names, digests and users. Knows nothing of weights, or of what an adapter changes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import attrs
import structlog
import trio

from semantic_trio.application.threads import InThread
from semantic_trio.domain.errors import ModelNotFoundError

log = structlog.get_logger(__name__)


@attrs.frozen
class AdapterFiles:
    """The files of an adapter."""

    name: str
    path: Path  # of their directory
    # the model that the adapter was trained on, as its training named that; empty: unknown
    base: str = ""
    fits: bool = True  # False: it was trained on another model than the one it was looked for


@attrs.frozen
class AdapterShelf:
    """The place where adapters are kept."""

    # blocking: all adapters, as seen from the model of an id
    look: Callable[[str], Sequence[AdapterFiles]]
    digest: Callable[[Path], bytes]  # blocking: of the files of an adapter. Raises `OSError`
    in_thread: InThread

    async def names(self, model: str) -> list[str]:
        """Return the names of the adapters that a model may use."""
        return [files.name for files in await self.in_thread(self.look, model) if files.fits]

    async def find(self, model: str, name: str) -> AdapterFiles:
        """Return the files of an adapter.

        Raises `ModelNotFoundError` where the model has none of this name.
        """
        known = await self.in_thread(self.look, model)
        found = next((files for files in known if files.name == name), None)
        if found is None:
            names = ", ".join(files.name for files in known if files.fits)
            raise ModelNotFoundError(f"{model}:{name}", f"adapters of {model}: {names or 'none'}")
        if not found.fits:
            reason = (
                f'the adapter was trained on {found.base}; if that is this model, set "model" in '
                f"its adapter_config.json to {model}"
            )
            raise ModelNotFoundError(f"{model}:{name}", reason)
        return found


class AdapterLoader(Protocol):
    """Has adapters in memory, by the digest of their files."""

    async def load_adapter(self, path: Path, name: str, digest: bytes) -> int:
        """Load an adapter, unless it is there, and return its bytes.

        Raises `ModelNotFoundError` for one that cannot be used, `StepFailedError`.
        """

    async def drop_adapter(self, digest: bytes) -> None:
        """Unload an adapter, if it is there. Raises `StepFailedError`."""


@attrs.frozen(eq=False)
class Adapter:
    """An adapter in memory."""

    name: str
    digest: bytes
    bytes: int


@attrs.define(eq=False)
class Adapters:
    """Adapters of one open model.

    One that is loaded stays as it is until it is unloaded, whatever becomes of its files.
    """

    model: str
    shelf: AdapterShelf
    loader: AdapterLoader
    # least recently used first
    _loaded: dict[str, Adapter] = attrs.field(init=False, factory=dict)
    # requests that use each adapter
    _users: Counter[Adapter] = attrs.field(init=False, factory=Counter)
    _held: set[bytes] = attrs.field(init=False, factory=set)  # adapters that the loader has
    # held while one is loaded or unloaded
    _lock: trio.Lock = attrs.field(init=False, factory=trio.Lock)
    _released: trio.Event = attrs.field(init=False, factory=trio.Event)

    @property
    def bytes(self) -> int:
        """Bytes of all loaded adapters."""
        return sum(adapter.bytes for adapter in self._loaded.values())

    async def acquire(self, name: str, stack: ExitStack) -> Adapter:
        """Return an adapter, in memory until the stack is closed.

        Raises `ModelNotFoundError`, and what loading raises.
        """
        async with self._lock:
            if name not in self._loaded:
                await self._drop_unused()
                self._loaded[name] = await self._load(name)
            adapter = self._loaded[name] = self._loaded.pop(name)
            self._users[adapter] += 1
        stack.callback(self._release, adapter)
        return adapter

    async def make_room(self, is_short: Callable[[], bool]) -> None:
        """Unload adapters without users, least recently used first, until memory is no longer
        short.
        """
        while is_short() and (
            idle := [name for name, one in self._loaded.items() if not self._users[one]]
        ):
            adapter = self._loaded.pop(idle[0])
            log.info("adapter unloaded", adapter=f"{self.model}:{idle[0]}", bytes=adapter.bytes)
            async with self._lock:
                await self._drop_unused()

    async def unload(self, name: str) -> Adapter:
        """Unload an adapter when its requests are over.

        The next request that names it loads it again. Raises `ModelNotFoundError`.
        """
        if name not in self._loaded:
            raise ModelNotFoundError(
                f"{self.model}:{name}",
                f"loaded adapters of {self.model}: {', '.join(self._loaded) or 'none'}",
            )
        adapter = self._loaded.pop(name)
        while self._users[adapter]:
            await self._released.wait()
        async with self._lock:
            await self._drop_unused()
        return adapter

    async def _load(self, name: str) -> Adapter:
        began = trio.current_time()
        files, full_name = await self.shelf.find(self.model, name), f"{self.model}:{name}"
        try:
            digest = await self.shelf.in_thread(self.shelf.digest, files.path)
        except OSError as error:
            raise ModelNotFoundError(
                full_name, f"the adapter cannot be read: {error.strerror or error}"
            ) from error
        self._held.add(digest)
        size = await self.loader.load_adapter(files.path, full_name, digest)
        log.info(
            "adapter loaded",
            adapter=full_name,
            bytes=size,
            seconds=round(trio.current_time() - began, 3),
        )
        return Adapter(name, digest, size)

    async def _drop_unused(self) -> None:
        """Unload what has no name any more, and no users."""
        needed = {adapter.digest for adapter in (*self._loaded.values(), *self._users)}
        for digest in [held for held in self._held if held not in needed]:
            await self.loader.drop_adapter(digest)
            self._held.discard(digest)

    def _release(self, adapter: Adapter) -> None:
        self._users[adapter] -= 1
        if not self._users[adapter]:
            del self._users[adapter]
        self._released.set()
        self._released = trio.Event()
