"""A server process for a benchmark: on a free port of this machine, drained at the end."""

import contextlib
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import attrs
import trio

URL = re.compile(rb" on (http://\S+)")


@attrs.define(eq=False)
class Served:
    """A server that runs, or has ended."""

    pid: int
    url: str
    code: int | None = None  # with which it ended


@contextlib.asynccontextmanager
async def served(options: Sequence[str], log: Path) -> AsyncIterator[Served]:
    """Start `semantic-trio serve` with options, its log appended to a file; drain it at the end,
    and kill it where the block raises.
    """
    command = [
        sys.executable,
        "-m",
        "semantic_trio",
        "serve",
        "--host",
        "127.0.0.1",
        "--port",
        "0",
        "--log-format",
        "json",
        *options,
    ]
    with log.open("ab") as file:
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, stderr=file)
    assert process.stdout is not None
    try:
        said = b""
        while not (found := URL.search(said)):
            piece = await process.stdout.receive_some()
            if not piece:
                raise RuntimeError(
                    f"the server did not start: {(await trio.Path(log).read_text())[-500:]}"
                )
            said += piece
        server = Served(process.pid, found[1].decode())
        yield server
        process.send_signal(signal.SIGTERM)
        server.code = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
