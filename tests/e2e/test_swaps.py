"""Swaps of the main model: a server killed during a swap, and memory after a hundred swaps."""

import signal
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path

import attrs
import httpx
import pytest

from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.entrypoints.exits import ExitCode
from tests.e2e.damage import assert_nothing_is_damaged
from tests.process import ServerProcess, serving
from tests.talk import Answer, ask, words

pytestmark = pytest.mark.timeout(1800)

AGENTS = ("ada", "bob", "eve")
# Tokens of a prompt: two whole blocks and a partial one.
WORDS = 650
# What a swap logs, in the order in which it does.
MOMENTS = (
    "memory is on disk",
    "a model is closed",
    "model loaded",
    "memory found on disk",
    "warmed up",
)
SWAPS, SETTLED_AFTER = 100, 10
# Bytes that the last 50 swaps may leave: 2 MB each, and a tokenizer takes 43. Heaps of threads
# grow in the first ones; in the last 50 the process has grown by 4 and by 7 MB in two runs.
LEFT_BYTES = 100 << 20
# Worker threads that wait for work, and connections, come and go: less than one in three swaps.
LEFT_THREADS = LEFT_SOCKETS = 30
# Bytes that they may leave on the device: less than a model.
LEFT_ON_DEVICE = 1 << 20


@pytest.fixture
def other(others: tuple[str, str]) -> str:
    return others[0]


def swap(server: ServerProcess, model: str) -> None:
    answer = server.post("/admin/models/swap", json={"model": model})
    assert answer.is_success, answer.text


def turn_of_each(server: ServerProcess, model: str) -> list[Answer]:
    return [ask(server, agent, words(agent, WORDS), model=model) for agent in AGENTS]


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_server_that_is_killed_in_a_swap_has_the_memory_of_both_models_afterwards(
    tmp_path: Path, other: str, moment: str
) -> None:
    cache = tmp_path / "cache"
    with serving(tmp_path, "--models", other) as server:
        first = turn_of_each(server, "tiny-random")
        swap(server, other)  # what is in RAM is written by the swap
        second = turn_of_each(server, "default")
        seen = len(server.lines(moment))
        swapping = threading.Thread(target=swap_until_killed, args=(server, "tiny-random"))
        swapping.start()
        while len(server.lines(moment)) == seen:
            assert swapping.is_alive(), server.said
        server.signal(signal.SIGKILL)
        server.exit_code()
        swapping.join()
    with serving(tmp_path, "--models", other) as server:
        again = turn_of_each(server, "tiny-random")
        second_again = turn_of_each(server, other)
        server.until_written()
        assert_nothing_is_damaged(server, cache)
        assert server.end() == ExitCode.OK

    assert [answer.source for answer in again + second_again] == ["disk"] * 2 * len(AGENTS)
    for before, after in zip(first + second, again + second_again, strict=True):
        assert after.text == before.text
        # whether the partial block is read or computed depends on what a disk and a pass take
        assert after.reused >= before.prompt_tokens // BLOCK_TOKENS * BLOCK_TOKENS


def swap_until_killed(server: ServerProcess, model: str) -> None:
    with suppress(httpx.TransportError):
        swap(server, model)


@attrs.frozen
class Held:
    """What a server process holds."""

    resident: int  # bytes
    on_device: int  # bytes of arrays that are in use
    threads: int
    open_files: Counter[str]  # descriptors by the file that they lead to
    sockets: int  # descriptors that lead to none
    files: int  # in its cache directory


def held_by(server: ServerProcess, cache: Path) -> Held:
    server.until_written()
    process = Path(f"/proc/{server.process.pid}")
    found = Counter(target(link) for link in (process / "fd").iterdir())
    used = server.get("/metrics").text.partition('semantic_memory_used_bytes{kind="active"} ')[2]
    return Held(
        resident=server.resident_bytes(),
        on_device=int(float(used.partition("\n")[0])),
        threads=len(list((process / "task").iterdir())),
        open_files=Counter({path: count for path, count in found.items() if path}),
        sockets=found[""],
        files=sum(path.is_file() for path in cache.rglob("*")),
    )


def target(link: Path) -> str:
    """Return the file that a descriptor leads to; empty where that is none."""
    with suppress(FileNotFoundError):
        path = str(link.readlink())
        return path if path.startswith("/") else ""
    return ""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells threads and files")
def test_a_hundred_swaps_leave_no_memory_threads_or_files(tmp_path: Path, other: str) -> None:
    cache, held = tmp_path / "cache", list[Held]()
    with serving(tmp_path, "--models", other) as server:
        for number in range(SWAPS + 1):
            swap(server, "tiny-random" if number % 2 else other)
            ask(server, "ada", words("ada", WORDS))
            if number >= SETTLED_AFTER and number % SETTLED_AFTER == 0:
                held.append(held_by(server, cache))
        assert server.end() == ExitCode.OK

    first, middle, last = held[0], held[len(held) // 2 - 1], held[-1]
    print(*held, sep="\n")
    assert last.resident < middle.resident + LEFT_BYTES
    assert last.on_device < first.on_device + LEFT_ON_DEVICE
    assert last.threads < first.threads + LEFT_THREADS
    assert last.sockets < first.sockets + LEFT_SOCKETS
    assert last.open_files == first.open_files
    assert last.files == first.files
