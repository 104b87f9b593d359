"""The command line's `models list | pull | rm | path`: the models on this machine.

Knows the catalogue. Knows nothing of a running server.
"""

from collections.abc import Callable

import click

from semantic_trio.adapters.catalogue.catalogue import Catalogue, ListedModel, open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.catalogue.suggested import SUGGESTED
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.exits import known_ends
from semantic_trio.entrypoints.printing import human, printable, tell_table
from semantic_trio.entrypoints.settings import Settings


def _catalogue(chosen: Settings) -> Catalogue:
    return open_catalogue(chosen.data_dir)


@click.command("list")
def list_models() -> None:
    """List the models that are built in or downloaded, with their sizes, and some for coding
    agents.

    Sizes are those on this machine: of the weights in memory, and of the keys and values of an
    agent with a conversation of 8K tokens. Context and cache are those of the settings of each
    model.
    """
    with known_ends():
        loaded = settings_loading.load({})
        entries = list(_catalogue(loaded.settings).entries())
        here = [entry for entry in entries if entry.path is not None]
        if here:
            _tell_facts(here, loaded.settings_of)
            click.echo("\nNot on this machine (`semantic-trio models pull NAME`):")
        absent = [(entry.name, entry.about) for entry in entries if entry.path is None]
        suggested = [
            (one.name, f"{one.about}, for coding agents")
            for one in SUGGESTED
            if one.name not in {entry.name for entry in here}
        ]
        tell_table([*absent, *suggested])


@click.command("pull")
@click.argument("name")
def pull_model(name: str) -> None:
    """Fetch a model and make it ready to serve.

    A download from the Hub that was interrupted goes on where it ended.
    """
    with known_ends():
        click.echo(_catalogue(settings_loading.load({}).settings).pull(name, Lines()))


@click.command("rm")
@click.argument("name")
def remove_model(name: str) -> None:
    """Remove a model, or what an interrupted pull has left of it, from this machine.

    A server that has it loaded goes on.
    """
    with known_ends():
        freed = _catalogue(settings_loading.load({}).settings).remove(name)
        click.echo(f"{printable(name)}: {human(freed)} are free again")


@click.command("path")
@click.argument("name")
def model_path(name: str) -> None:
    """Print the directory of a model that is on this machine."""
    with known_ends():
        click.echo(_catalogue(settings_loading.load({}).settings).path(name))


def _tell_facts(entries: list[ListedModel], settings_of: Callable[[str], Settings]) -> None:
    """Print a table of models on this machine, each with its own settings, and a line for each
    that cannot be read.
    """
    # MLX: only where it is needed
    from semantic_trio.entrypoints.model_facts import HEADINGS, facts_of

    rows, faults = list[tuple[str, ...]]([HEADINGS]), list[str]()
    for entry in entries:
        assert entry.path is not None, "these are on this machine"
        try:
            rows.append(facts_of(entry.name, entry.path, settings_of(entry.name)).cells(entry.name))
        except ModelNotFoundError as error:
            faults.append(str(error))
    tell_table(rows)
    for fault in faults:
        click.echo(printable(fault))
