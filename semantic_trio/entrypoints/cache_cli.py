"""The command line's `cache`: memory of the models on disk, and how to delete it; eviction of the
running server's memory from RAM.

Looking is done beside a running server; deleting needs the directory for itself.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import click
import msgspec

from semantic_trio.adapters.disk import CacheDirectory, CacheLock, StoredModel, held_by
from semantic_trio.adapters.disk.directory import Damaged, Newer, to_be_given_up
from semantic_trio.domain.content import Kind
from semantic_trio.domain.errors import CacheInUseError, InvalidRequestError
from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.exits import known_ends
from semantic_trio.entrypoints.printing import counted, human, tell_facts, tell_table
from semantic_trio.entrypoints.running_server import post, server_url
from semantic_trio.entrypoints.settings import Settings

SHOWN_DIGITS = 12  # of a fingerprint
MIB = 1 << 20

Command = Callable[..., None]


class _Evicted(msgspec.Struct):
    freed_bytes: int
    used_bytes: int
    unwritten_bytes: int


@attrs.define
class Place:
    """The cache directory that a group of commands works on."""

    given: Path | None

    @property
    def settings(self) -> Settings:
        """Settings in force, with the directory that was named. Raises `InvalidRequestError`."""
        return settings_loading.load(
            {} if self.given is None else {"cache_dir": self.given}
        ).settings

    @property
    def directory(self) -> CacheDirectory:
        """The directory. Raises `InvalidRequestError`."""
        return CacheDirectory(self.settings.cache_dir)


in_directory = click.option(
    "--cache-dir",
    type=click.Path(path_type=Path),
    default=None,
    help="Where it is; by default where the settings say.",
)
of_server = click.option(
    "--url",
    default=None,
    metavar="URL",
    help="Where the server is; by default the one that works with the cache directory.",
)
pass_place = click.make_pass_decorator(Place)


@contextlib.contextmanager
def told_ends() -> Iterator[None]:
    """Report errors as `known_ends` does, for commands that have a directory and no address."""
    with known_ends():
        try:
            yield
        except OSError as error:
            raise PermissionError(
                f"{error.filename or 'cache_dir'}: {error.strerror or error}"
            ) from error


@contextlib.contextmanager
def locked(directory: CacheDirectory, command: str) -> Iterator[None]:
    """The directory is this process's alone. Raises `CacheInUseError`, `OSError`."""
    with CacheLock(directory.root, f"pid {os.getpid()}, semantic-trio {command}"):
        yield


@click.group()
@in_directory
@click.pass_context
def cache(context: click.Context, cache_dir: Path | None) -> None:
    """What agents remember on disk."""
    context.obj = Place(cache_dir)


@cache.command("ls")
@pass_place
def list_cache(place: Place) -> None:
    """List the models that have memory on disk, and what each has."""
    with told_ends():
        directory = place.directory
        for model in directory.models():
            tell_facts(_facts(model))
            click.echo()
        quarantined = directory.quarantined()
        size = sum(path.stat().st_size for path in quarantined)
        holder = held_by(directory.root)
        tell_facts(
            [
                ("directory", directory.root),
                ("quarantine", f"{counted(_damaged_files(quarantined), 'file')}, {human(size)}"),
                ("in use by", holder or "nobody"),
            ]
        )


@cache.command("verify")
@pass_place
def verify_cache(place: Place) -> None:
    """Read every file, and say which are damaged; they are put aside where no server works with the
    directory.

    Ends with 1 where there are any.
    """
    with told_ends(), contextlib.ExitStack() as stack:
        directory = place.directory
        holder = _taken(stack, directory)
        read, damaged, newer = 0, 0, 0
        for model in directory.models():
            for found in model.damaged():
                read += 1
                newer += isinstance(found, Newer)
                if isinstance(found, Damaged):
                    damaged += 1
                    click.echo(f"damaged  {_told(model, found, holder)}")
        facts = [("read", counted(read, "file")), ("damaged", counted(damaged, "file"))]
        tell_facts([*facts, ("of a newer version", counted(newer, "file"))] if newer else facts)
    sys.exit(1 if damaged else 0)


@cache.command("evict")
@of_server
@pass_place
def evict_cache(place: Place, url: str | None) -> None:
    """Evict from the RAM of the running server what no request uses and no pin holds.

    What is not on disk yet is written first, or stays.
    """
    with told_ends():
        chosen = place.settings
        evicted = post(url or server_url(chosen), "/admin/cache/evict", chosen.key, _Evicted)
        tell_facts(
            [
                ("freed", human(evicted.freed_bytes)),
                ("in use", human(evicted.used_bytes)),
                ("not on disk yet", human(evicted.unwritten_bytes)),
            ]
        )


@cache.command("prune")
@click.option(
    "--to-mb",
    type=click.IntRange(min=0),
    default=None,
    metavar="N",
    help="Until all models take N MiB: of agents too, least used first.",
)
@click.option(
    "--quarantine", "wants_quarantine", is_flag=True, help="What was put aside as damaged too."
)
@pass_place
def prune_cache(place: Place, to_mb: int | None, *, wants_quarantine: bool) -> None:
    """Delete what nothing leads to: what was begun and not finished, and blocks and marks of no
    agent.
    """
    with told_ends():
        directory = place.directory
        with locked(directory, "cache prune"):
            models = directory.models()
            rows = [_removed("unfinished", directory.temporaries(models))]
            rows += [_removed("quarantine", directory.quarantined())] if wants_quarantine else []
            rows += [
                (f"kept for agents of a newer version, {model.name}", "", human(model.bytes))
                for model in models
                if model.has_newer
            ]
            rows += [
                (f"of no agent, {model.name}", *_freed(len(items), model.remove(items)))
                for model in models
                for items in [model.unreached()]
            ]
            if to_mb is not None:
                rows.append(("of agents", *_given_up(models, to_mb * MIB)))
            left = sum(model.bytes for model in models)
        tell_table([*rows, ("left", "", human(left))])
    if to_mb is not None and left > to_mb * MIB:
        click.echo(f"semantic-trio: records and pinned agents take more than {to_mb} MiB", err=True)
        sys.exit(1)


@cache.command("rm")
@click.argument("model", required=False)
@click.option("--all", "is_all", is_flag=True, help="Every model, and the quarantine.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@pass_place
def remove_model(place: Place, model: str | None, *, is_all: bool, yes: bool) -> None:
    """Forget MODEL on disk, agents and all: a name as `cache ls` shows it, or the beginning of a
    fingerprint.
    """
    if (model is None) != is_all:
        raise click.UsageError("name a model, or say --all")
    with told_ends():
        directory = place.directory
        chosen = chosen_models(directory, model)
        tell_table(
            [
                (
                    one.name,
                    one.fingerprint[:SHOWN_DIGITS],
                    counted(len(one.layout.records()), "agent"),
                    human(one.bytes),
                )
                for one in chosen
            ]
        )
        if not yes:
            click.confirm("Forget this for good?", abort=True)
        with locked(directory, "cache rm"):
            for one in chosen:
                one.remove_all()
            if is_all:
                _removed("quarantine", directory.quarantined())


def chosen_models(directory: CacheDirectory, wanted: str | None) -> list[StoredModel]:
    """The models that are meant; all for None.

    Raises `InvalidRequestError` where there is none, or two that only begin alike.
    """
    models = [model for model in directory.models() if wanted is None or model.is_called(wanted)]
    if wanted is not None and not models:
        raise InvalidRequestError(f"{wanted} has no memory in {directory.root}", "model")
    if wanted is not None and len(models) > 1 and any(model.name != wanted for model in models):
        known = ", ".join(f"{model.name} ({model.fingerprint[:SHOWN_DIGITS]})" for model in models)
        raise InvalidRequestError(f"{wanted} may be {known}", "model")
    return models


def _facts(model: StoredModel) -> list[tuple[str, object]]:
    counts = {kind: sum(item.kind is kind for item in model.sizes) for kind in Kind}
    return [
        ("model", model.name),
        ("fingerprint", model.fingerprint[:SHOWN_DIGITS]),
        ("agents", f"{len(model.layout.records()):,}"),
        ("blocks", f"{counts[Kind.BLOCK]:,}"),
        ("marks", f"{counts[Kind.SNAPSHOT]:,}"),
        ("bytes", human(model.bytes)),
    ]


def _taken(stack: contextlib.ExitStack, directory: CacheDirectory) -> str | None:
    """Return the process that works with the directory; with None this process is the only one from
    now on.
    """
    try:
        stack.enter_context(locked(directory, "cache verify"))
    except CacheInUseError as error:
        return error.holder
    return None


def _told(model: StoredModel, found: Damaged, holder: str | None) -> str:
    """A line on a damaged file, which is put aside where that may be."""
    line = f"{model.layout.name(found.path)} of {model.name}: {found.reason}"
    if not found.is_readable:
        return line
    if holder is not None:
        return f"{line}; stays where it is, for {holder} works with it"
    model.put_aside(found)
    return f"{line}; put aside"


def _damaged_files(quarantined: list[Path]) -> int:
    """Count damaged files, without the reasons beside them."""
    return sum(path.suffix != ".txt" for path in quarantined)


def _removed(what: str, files: list[Path]) -> tuple[str, str, str]:
    size = sum(path.stat().st_size for path in files)
    for path in files:
        path.unlink(missing_ok=True)
    return (what, *_freed(len(files), size))


def _given_up(models: list[StoredModel], limit_bytes: int) -> tuple[str, str]:
    count, size = 0, 0
    for model, item in to_be_given_up(models, limit_bytes):
        count, size = count + 1, size + model.remove([item])
    return _freed(count, size)


def _freed(count: int, size: int) -> tuple[str, str]:
    return counted(count, "file"), human(size)
