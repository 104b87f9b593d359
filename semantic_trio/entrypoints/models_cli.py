"""The command line's `models load | unload | swap | alias`: the models of the running server.

Knows the server's routes. Knows nothing of where models come from.
"""

from typing import TypeVar
from urllib.parse import quote

import click
import msgspec

from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.cache_cli import of_server, told_ends
from semantic_trio.entrypoints.printing import human, tell_facts, tell_table
from semantic_trio.entrypoints.running_server import ask, server_url

# Seconds for an answer: requests of a model may run on for an hour, and a model of hundreds of
# gigabytes is read from disk.
LONGEST_CHANGE_SECONDS = 7200.0

Answer = TypeVar("Answer")


class _Changed(msgspec.Struct):
    model: str
    seconds: float
    bytes: int


class _Aliases(msgspec.Struct):
    aliases: dict[str, str]


@click.command("load")
@click.argument("name")
@of_server
def load_model(name: str, url: str | None) -> None:
    """Load a model into the running server, and serve it beside the others."""
    _change("load", name, url)


@click.command("unload")
@click.argument("name")
@of_server
def unload_model(name: str, url: str | None) -> None:
    """Unload a model of the running server when its requests are over.

    The next request that names it loads it again.
    """
    _change("unload", name, url)


@click.command("swap")
@click.argument("name")
@of_server
def swap_model(name: str, url: str | None) -> None:
    """Make a model the main one of the running server; the one from before is unloaded."""
    _change("swap", name, url)


@click.command("alias")
@click.argument("alias", required=False)
@click.argument("name", required=False)
@click.option("--remove", is_flag=True, help="Remove ALIAS.")
@of_server
def alias_model(alias: str | None, name: str | None, url: str | None, *, remove: bool) -> None:
    """Have ALIAS stand for the model NAME in the running server; without arguments, list the
    aliases.
    """
    if (alias is not None and (name is None) != remove) or (alias is None and remove):
        raise click.UsageError("give an alias and a model, an alias with --remove, or nothing")
    with told_ends():
        if alias is None:
            found = _ask("GET", "/admin/models/aliases", _Aliases, url)
        elif remove:
            found = _ask("DELETE", f"/admin/models/aliases/{quote(alias, safe='')}", _Aliases, url)
        else:
            found = _ask(
                "PUT", "/admin/models/aliases", _Aliases, url, {"alias": alias, "model": name}
            )
        tell_table([*found.aliases.items()])


def _change(action: str, name: str, url: str | None) -> None:
    with told_ends():
        changed = _ask("POST", f"/admin/models/{action}", _Changed, url, {"model": name})
        tell_facts(
            [
                ("model", changed.model),
                ("took", f"{changed.seconds:.1f} s"),
                ("memory", human(changed.bytes)),
            ]
        )


def _ask(
    method: str, path: str, kind: type[Answer], url: str | None, body: object = None
) -> Answer:
    chosen = settings_loading.load({}).settings
    return ask(
        url or server_url(chosen),
        method,
        path,
        chosen.key,
        kind,
        body=body,
        seconds=LONGEST_CHANGE_SECONDS,
    )
