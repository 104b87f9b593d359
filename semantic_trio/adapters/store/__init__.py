"""Responses in a database: a file of SQLite's, or a server of PostgreSQL's."""

from semantic_trio.adapters.store.opening import open_store, place_of
from semantic_trio.adapters.store.sqlite import Bounds

__all__ = ["Bounds", "open_store", "place_of"]
