"""A server process of the benchmark's own: on a free port, with a cache directory of its own, ended
with the block that started it.
"""

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import attrs
import trio

from semantic_trio.domain.errors import InvalidRequestError

URL = re.compile(rb" serves .+ on (http://\S+)$", re.MULTILINE)
LOG = "server.log"
# Everything that would touch what other servers of this user have.
OWN = ("--host", "127.0.0.1", "--port", "0", "--responses-url", "", "--log-format", "json")


@attrs.frozen
class OwnServer:
    """A server that the bench starts, with the settings in force here."""

    environment: Mapping[str, str]  # settings of this command line
    config_file: Path | None = None

    @contextlib.asynccontextmanager
    async def running(self, directory: Path) -> AsyncIterator[str]:
        """Start it with its cache in a directory; its URL.

        Ends it with everything on disk, and at once where the block is left by an exception.
        """
        config = ("--config", str(self.config_file)) if self.config_file else ()
        command = [
            sys.executable,
            "-m",
            "semantic_trio",
            "serve",
            *OWN,
            "--cache-dir",
            str(directory / "cache"),
            *config,
        ]
        with (directory / LOG).open("wb") as log:
            process = await trio.lowlevel.open_process(
                command, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **self.environment}
            )
        assert process.stdout is not None
        try:
            async with process.stdout:
                yield await _url(process.stdout, directory / LOG)
                process.terminate()
                await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()


async def _url(output: trio.abc.ReceiveStream, log: Path) -> str:
    """Wait for the line that names the URL.

    Raises `InvalidRequestError` with the server's last line where it ends before.
    """
    said = b""
    async for data in output:
        said += data
        if found := URL.search(said):
            return found[1].decode()
    raise InvalidRequestError(f"did not start: {_last_line(log)}", "server")


def _last_line(log: Path) -> str:
    return (
        log.read_text(errors="replace").strip().rpartition("\n")[2].removeprefix("semantic-trio: ")
    )
