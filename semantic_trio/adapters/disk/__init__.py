"""What a model remembers, as files: safetensors with a checksum over the whole, there whole or not at all."""

from semantic_trio.adapters.disk.files import ModelFiles
from semantic_trio.adapters.disk.lock import CacheLock

__all__ = ["CacheLock", "ModelFiles"]
