"""Memory of large bodies goes back to the system."""

import platform
import subprocess
import sys

import attrs
import pytest

from semantic_trio.adapters.http.middleware.lifecycle import RequestLifecycle
from semantic_trio.testing import FakeRunner
from tests.http.serving import openai_body, post, running, served

# Blocks of a heap that cannot shrink by itself, for the last one stays.
FREED = """
import resource
from semantic_trio.adapters.http.middleware.freed_memory import return_freed_memory
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()
blocks = [bytes(2000) for _ in range(100_000)]
last = blocks[-1]
del blocks
before = resident()
return_freed_memory()
print(before - resident())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc",
    reason="needs glibc: other C libraries return freed memory by themselves",
)
def test_freed_memory_is_returned() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FREED], capture_output=True, text=True, check=True, timeout=60
    )

    assert int(done.stdout) > 100_000_000


@pytest.mark.parametrize(("characters", "count"), [(9_000_000, 1), (1_000, 0)])
async def test_memory_is_returned_after_a_large_body_alone(characters: int, count: int) -> None:
    calls: list[None] = []
    async with running(served(FakeRunner())) as server:
        gate = server.app.asgi_app
        assert isinstance(gate, RequestLifecycle)
        server.app.asgi_app = attrs.evolve(gate, reclaim=lambda: calls.append(None))  # type: ignore[method-assign]
        answer = await post(server.app, "/v1/chat/completions", openai_body("x" * characters))

    assert answer.status in {200, 400}
    assert len(calls) == count
