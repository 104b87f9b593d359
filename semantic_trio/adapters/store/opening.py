"""The database that a setting names, and the store in it.

Knows URLs. Knows nothing of what is stored.
"""

import functools
from pathlib import Path
from urllib.parse import unquote, urlsplit

from semantic_trio.adapters.store import sqlite
from semantic_trio.adapters.store.address import SETTING, Address
from semantic_trio.adapters.store.responses import Connect, SqlResponses
from semantic_trio.adapters.store.sqlite import UNBOUNDED, Bounds
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.ports.response_store import ResponseStore

INSTALL = "pip install 'semantic-trio[postgres]'"


def open_store(url: str, default: Path, bounds: Bounds = UNBOUNDED) -> ResponseStore:
    """The store that a URL names, `sqlite:///absolute/path` or
    `postgresql://user:password@host:port/database`; without one SQLite's in a file.

    Blocks until the database has answered and its tables are there; whoever opens it closes it.
    Raises `InvalidRequestError` for another URL, and where what PostgreSQL needs is not installed;
    `StoreError` for a database that cannot be used. Neither tells a password. The bounds are those
    of a file; what has to be done before one is made concerns the default alone.
    """
    connect = _connect(url, default, bounds)
    return SqlResponses(connect, connect())


def place_of(url: str, default: Path) -> str:
    """Return the place of the store that a URL names, without a password.

    Raises `InvalidRequestError` for another URL.
    """
    return str(_place(url, default))


def _connect(url: str, default: Path, bounds: Bounds) -> Connect:
    place = _place(url, default)
    if isinstance(place, Address):
        return _postgres(place)
    return functools.partial(
        sqlite.connect,
        place,
        bounds if place == default else Bounds(bounds.budget_bytes, bounds.floor_bytes),
    )


def _place(url: str, default: Path) -> Address | Path:
    if not url:
        return default
    if url.startswith("sqlite:"):
        return _path(url)
    if url.startswith("postgresql://"):
        return Address.of(url)
    raise InvalidRequestError("begins neither with sqlite:/// nor with postgresql://", SETTING)


def _path(url: str) -> Path:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise InvalidRequestError("is no URL", SETTING) from None
    path = unquote(parts.path)
    if parts.netloc or parts.query or parts.fragment or not path.startswith("/") or "\0" in path:
        raise InvalidRequestError(
            "has to be sqlite:///absolute/path, with nothing behind it", SETTING
        )
    return Path(path)


def _postgres(address: Address) -> Connect:
    try:
        from semantic_trio.adapters.store import postgres  # what it needs is an extra
    except ImportError as error:
        raise InvalidRequestError(f"PostgreSQL needs pg8000: {INSTALL}", SETTING) from error
    return functools.partial(postgres.connect, address)
