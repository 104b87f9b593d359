"""Fakes that pass the contract tests of the real parts, for tests of what is built on them."""

from semantic_trio.testing.codec import ByteCodec, ByteDecoder
from semantic_trio.testing.files import MemoryFiles
from semantic_trio.testing.models import FakeModel, FakeOpener
from semantic_trio.testing.observing import MemoryObserver, MemorySink
from semantic_trio.testing.responses import MemoryResponses
from semantic_trio.testing.runner import ATTENTION_ONLY, END_OF_TURN, FakeRunner

__all__ = [
    "ATTENTION_ONLY",
    "END_OF_TURN",
    "ByteCodec",
    "ByteDecoder",
    "FakeModel",
    "FakeOpener",
    "FakeRunner",
    "MemoryFiles",
    "MemoryObserver",
    "MemoryResponses",
    "MemorySink",
]
