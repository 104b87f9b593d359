"""The command `bench`: its options, and the files that it writes."""

import secrets
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import click
import msgspec
import trio
from typed_settings.types import SecretStr

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.client import Client
from semantic_trio.entrypoints.bench.comparison import Baseline, compared
from semantic_trio.entrypoints.bench.plot import check_plot, draw
from semantic_trio.entrypoints.bench.results import Options
from semantic_trio.entrypoints.bench.run import Bench, Given, Own, run
from semantic_trio.entrypoints.bench.server import OwnServer
from semantic_trio.entrypoints.bench.table import lines
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.sources import PREFIX

MOST_STREAMS, MOST_CONTEXT = 1024, 1 << 20
SIGNALLED = 128  # added to the number of a signal, as shells do


@attrs.frozen
class Extent:
    """The amounts that are measured unless an option says otherwise."""

    streams: str
    tokens: int
    words: int
    rounds: int
    in_turn: tuple[int, ...] = ()
    contexts: tuple[int, ...] = ()


USUAL, QUICK = Extent("1,4,8", 96, 1000, 3), Extent("1,4", 32, 400, 1)
FULL = Extent("1,3,5,7,10", 48, 1000, 3, in_turn=(1, 3, 5), contexts=(2048, 4096, 8192, 16384))


def options(  # noqa: PLR0913  # one for each option of the command line
    streams: str | None,
    tokens: int | None,
    words: int | None,
    rounds: int | None,
    seed: str | None,
    extent: Extent,
    *,
    has_bare: bool,
    contexts: str | None = None,
) -> Options:
    """The options in force; what is not said is that of the extent.

    Raises `InvalidRequestError`.
    """
    numbers = _numbers(streams or extent.streams, "--streams", MOST_STREAMS)
    return Options(
        numbers,
        tokens or extent.tokens,
        words or extent.words,
        rounds or extent.rounds,
        seed or secrets.token_hex(4),
        has_bare,
        in_turn=tuple(one for one in extent.in_turn if one in numbers),
        contexts=_numbers(contexts, "--contexts", MOST_CONTEXT) if contexts else extent.contexts,
        has_reference=extent is FULL,
    )


def _numbers(text: str, option: str, most: int) -> tuple[int, ...]:
    try:
        found = sorted({int(part) for part in text.split(",")})
    except ValueError:
        found = [0]
    if found[0] < 1 or found[-1] > most:
        raise InvalidRequestError(
            f"{text!r} is not a list of numbers from 1 to {most:,} with commas between", option
        )
    return tuple(found)


def check_files(json_file: Path | None, plot_files: Sequence[Path]) -> None:
    """Raises `InvalidRequestError` for a file that cannot be written: before anything is measured,
    not after.
    """
    for path in plot_files:
        check_plot(path)
    for path in [*([json_file] if json_file else []), *plot_files]:
        if not path.absolute().parent.is_dir():
            raise InvalidRequestError(f"there is no directory {path.absolute().parent}", str(path))


def target(
    url: str | None, settings: Settings, given: Mapping[str, object], config_file: Path | None
) -> Given | Own:
    """The server to measure; `given` are the settings of the command line.

    Fetches the model where one is to be started without being here.
    """
    client = Client(url or "", settings.key, settings.model_id)
    if url:
        name = settings.model_id if "model_id" in given else trio.run(client.model_id)
        return Given(attrs.evolve(client, model=name))
    path = open_catalogue(settings.data_dir).ensure(settings.model_id, Lines())
    environment = {f"{PREFIX}{name.upper()}": str(value) for name, value in given.items()}
    return Own(client, OwnServer(environment, config_file), path, _reported(settings))


def _reported(settings: Settings) -> dict[str, str]:
    """Settings by name, without those that are secret, or that the server of the benchmark does not
    follow.
    """
    left_out = {"host", "port", "cache_dir", "log_format", "api_key_file"}
    found = {
        field.name: getattr(settings, field.name)
        for field in attrs.fields(Settings)
        if field.name not in left_out
    }
    return {
        name: str(value) for name, value in found.items() if not isinstance(value, SecretStr | None)
    }


def carry_out(
    wanted: Options,
    server: Given | Own,
    json_file: Path | None,
    plot_files: Sequence[Path],
    baseline: Baseline | None,
) -> int:
    """Run the benchmark, print its table and its comparison with an earlier report, write its
    files; the exit code.
    """
    report = run(Bench(wanted, server, Lines()))
    if isinstance(report, signal.Signals):
        click.echo(f"semantic-trio: ended by {report.name}", err=True)
        return SIGNALLED + report
    click.echo(
        "\n".join([*lines(report), *(["", *compared(report, baseline)] if baseline else [])])
    )
    if json_file:
        json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
    for path in plot_files:
        draw(report, path)
    return 0
