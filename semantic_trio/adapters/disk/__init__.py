"""Memory of a model as files: safetensors with a checksum over the whole, there whole or not at
all.
"""

from semantic_trio.adapters.disk.directory import CacheDirectory, StoredModel
from semantic_trio.adapters.disk.files import ModelFiles
from semantic_trio.adapters.disk.lock import CacheLock, held_by

__all__ = ["CacheDirectory", "CacheLock", "ModelFiles", "StoredModel", "held_by"]
