"""Responses in a database: a file of SQLite's, or a server of PostgreSQL's."""

from semantic_trio.adapters.store.opening import open_store, place_of

__all__ = ["open_store", "place_of"]
