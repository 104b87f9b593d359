"""The command line's `drain`: an end of the running server that interrupts no answer."""

import click
import msgspec

from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.cache_cli import of_server, told_ends
from semantic_trio.entrypoints.printing import counted, tell_facts
from semantic_trio.entrypoints.running_server import post, server_url


class _Draining(msgspec.Struct):
    running: int
    waiting: int
    timeout_seconds: float


@click.command()
@of_server
def drain(url: str | None) -> None:
    """Have the running server finish its open requests and end, as SIGTERM does."""
    with told_ends():
        chosen = settings_loading.load({}).settings
        address = url or server_url(chosen)
        draining = post(address, "/admin/drain", chosen.key, _Draining)
        tell_facts(
            [
                ("server", address),
                ("running", counted(draining.running, "request")),
                ("waiting", counted(draining.waiting, "request")),
                (
                    "time left",
                    f"{draining.timeout_seconds:.0f} s at most, then its memory is written to disk",
                ),
            ]
        )
