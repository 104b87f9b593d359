"""The command line's `agents`: who is remembered on disk, and how an agent is carried from one
machine to another.

Reads files, beside a running server or without one. A running server is told of an agent that
comes, so that it is known at once.
"""

from pathlib import Path
from typing import BinaryIO

import attrs
import click

from semantic_trio.adapters.disk import CacheDirectory, StoredModel
from semantic_trio.adapters.disk.format import Label
from semantic_trio.adapters.disk.parsing import UnfitError
from semantic_trio.adapters.disk.publishing import publish
from semantic_trio.adapters.disk.travel import label_of
from semantic_trio.application.archives import salt_of_import
from semantic_trio.domain.agent import agent_id, client_id
from semantic_trio.domain.chain import TOKEN_BYTES
from semantic_trio.domain.content import AgentRecord, ImportTrust
from semantic_trio.domain.errors import AgentNotFoundError, CacheInUseError, InvalidRequestError
from semantic_trio.domain.lineage import Lineage
from semantic_trio.domain.salt import own_part
from semantic_trio.entrypoints import logging
from semantic_trio.entrypoints.cache_cli import (
    SHOWN_DIGITS,
    Place,
    chosen_models,
    in_directory,
    locked,
    pass_place,
    told_ends,
)
from semantic_trio.entrypoints.printing import counted, human, tell_facts, tell_table
from semantic_trio.entrypoints.running_server import URL
from semantic_trio.entrypoints.sending import send_agent

of_model = click.option(
    "--model",
    default=None,
    metavar="MODEL",
    help="Of which model: a name, or the beginning of a fingerprint.",
)


@attrs.frozen
class Found:
    """An agent on disk."""

    model: StoredModel
    record: AgentRecord
    belongings: Lineage

    @property
    def tokens(self) -> int:
        """Length of its history."""
        return len(self.record.history) // TOKEN_BYTES

    @property
    def bytes(self) -> int:
        """Bytes of the agent's blocks and snapshots, shared ones too."""
        return sum(self.model.sizes.get(item, 0) for item in self.belongings)


@click.group()
@in_directory
@click.pass_context
def agents(context: click.Context, cache_dir: Path | None) -> None:
    """Agents that are remembered on disk."""
    context.obj = Place(cache_dir)


@agents.command("ls")
@of_model
@pass_place
def list_agents(place: Place, model: str | None) -> None:
    """List agents, those used last at the end."""
    with told_ends():
        directory = place.directory
        found = [
            Found(one, *agent) for one in chosen_models(directory, model) for agent in one.agents()
        ]
        rows = [
            (
                one.record.id,
                one.model.name,
                f"{one.tokens:,} tokens",
                counted(one.record.turns, "turn"),
                human(one.bytes),
            )
            for one in found
        ]
        tell_table(rows)


@agents.command("show")
@click.argument("agent")
@of_model
@pass_place
def show_agent(place: Place, agent: str, model: str | None) -> None:
    """Tell what is known of AGENT; not what was said."""
    with told_ends():
        tell_facts(_facts(_find(place.directory, agent, model)))


@agents.command("export")
@click.argument("agent")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@of_model
@pass_place
def export_agent(place: Place, agent: str, file: Path, model: str | None) -> None:
    """Write AGENT, with all that is remembered of it on disk, to FILE."""
    with told_ends():
        _log(place)
        found = _find(place.directory, agent, model)

        def fill(temporary: Path) -> None:
            with temporary.open("wb") as out:
                out.writelines(found.model.files.archives.export_agent(found.record))

        size = publish(file, fill)
        tell_facts(
            [("agent", agent), ("model", found.model.name), ("file", file), ("bytes", human(size))]
        )


@agents.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--as", "name", default=None, metavar="ID", help="Under another id than its own.")
@of_model
@pass_place
def import_agent(place: Place, file: Path, name: str | None, model: str | None) -> None:
    """Take in the agent in FILE.

    The setting import_trust says whether other agents use what it brings.
    """
    with told_ends():
        _log(place)
        directory = place.directory
        with file.open("rb") as archive:
            try:
                with locked(directory, "agents import"):
                    tell_facts(
                        _taken_in(directory, archive, name, model, place.settings.import_trust)
                    )
            except CacheInUseError as error:
                tell_facts(_sent(place, archive, name, model, error))


def _log(place: Place) -> None:
    chosen = place.settings
    logging.configure(chosen.log_format, chosen.log_level)


def _find(directory: CacheDirectory, agent: str, model: str | None) -> Found:
    """Raises `AgentNotFoundError`, `InvalidRequestError` where several models know the agent,
    `CacheCorruptionError`.
    """
    agent_id(agent)
    found = [
        Found(one, *known)
        for one in chosen_models(directory, model)
        if (known := one.agent(agent)) is not None
    ]
    if not found:
        raise AgentNotFoundError(agent)
    if len(found) > 1:
        names = ", ".join(
            f"{one.model.name} ({one.model.fingerprint[:SHOWN_DIGITS]})" for one in found
        )
        raise InvalidRequestError(f"{agent} is known to {names}: say which, with --model", "agent")
    return found[0]


def _facts(found: Found) -> list[tuple[str, object]]:
    record, belongings, here = found.record, found.belongings, found.model.sizes
    blocks = [*belongings.blocks, *([belongings.tail] if belongings.tail else [])]
    return [
        ("agent", record.id),
        ("model", found.model.name),
        ("fingerprint", found.model.fingerprint[:SHOWN_DIGITS]),
        ("named", "by a client" if record.is_named else "no: recognised by what it has read"),
        ("pinned", "yes" if record.is_pinned else "no"),
        ("parent", record.parent or "none"),
        ("shares", "no: its blocks have a salt of their own" if own_part(record.salt) else "yes"),
        ("turns", f"{record.turns:,}"),
        ("tokens", f"{found.tokens:,}"),
        ("messages", f"{len(record.conversation.messages):,}"),
        ("tools", f"{len(record.conversation.tools):,}"),
        ("blocks", f"{sum(item in here for item in blocks):,} of {len(blocks):,} are here"),
        (
            "marks",
            (
                f"{sum(item in here for item in belongings.snapshots):,} of "
                f"{len(record.snapshots):,} are here"
            ),
        ),
        ("bytes", human(found.bytes)),
    ]


def _taken_in(
    directory: CacheDirectory,
    archive: BinaryIO,
    name: str | None,
    wanted: str | None,
    trust: ImportTrust,
) -> list[tuple[str, object]]:
    """Keep it among the files of its model, as the agent that was used last."""
    label = _label(archive)
    model = next(
        (one for one in directory.models() if one.fingerprint == label.fingerprint),
        StoredModel.of(directory.root, label),
    )
    _check_model(model, wanted)
    files = model.files
    files.index()  # which is to be made before anything is written
    record = files.archives.import_agent(
        archive, client_id(name) if name else None, salt_of_import(trust)
    )
    used = max((agent.used for agent, _ in model.agents()), default=0)
    files.write_agent(attrs.evolve(record, used=used + 1))
    return [
        ("agent", record.id),
        ("model", model.name),
        ("tokens", f"{len(record.history) // TOKEN_BYTES:,}"),
        ("known", "from the next start on"),
    ]


def _sent(
    place: Place, archive: BinaryIO, name: str | None, wanted: str | None, in_use: CacheInUseError
) -> list[tuple[str, object]]:
    """Have the server take it in that works with the directory.

    Raises what was raised where that is no server.
    """
    label = _label(archive)
    _check_model(StoredModel.of(place.directory.root, label), wanted)
    url = URL.search(in_use.holder)
    if url is None:
        raise in_use
    agent = send_agent(url[0], client_id(name) if name else label.name, archive, place.settings.key)
    return [
        ("agent", agent.id),
        ("model", agent.model),
        ("tokens", f"{agent.tokens:,}"),
        ("known", f"now, at {url[0]}"),
    ]


def _label(archive: BinaryIO) -> Label:
    try:
        return label_of(archive)
    except UnfitError as error:
        raise InvalidRequestError(str(error), "archive") from error


def _check_model(model: StoredModel, wanted: str | None) -> None:
    if wanted is not None and not model.is_called(wanted):
        raise InvalidRequestError(
            f"is of model {model.name} ({model.fingerprint[:SHOWN_DIGITS]}), and not of {wanted}",
            "archive",
        )
