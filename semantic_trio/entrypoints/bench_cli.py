"""The command line's `bench`: what a server gives on this machine, measured and compared."""

import sys
from pathlib import Path

import click

from semantic_trio.entrypoints.exits import known_ends
from semantic_trio.entrypoints.options import given, load, settings_options


@click.command()
@click.option(
    "--url",
    default=None,
    metavar="URL",
    help="A running server to measure; by default one is started with the settings below.",
)
@click.option("--streams", default=None, metavar="N,N", help="Numbers of streams. [default: 1,4,8]")
@click.option(
    "--tokens", type=click.IntRange(8), default=None, help="Most tokens of an answer. [default: 96]"
)
@click.option(
    "--words",
    type=click.IntRange(8),
    default=None,
    help="Words of the long prompt. [default: 1000]",
)
@click.option(
    "--contexts", default=None, metavar="N,N", help="Tokens of conversations. [default: none]"
)
@click.option(
    "--rounds",
    type=click.IntRange(1),
    default=None,
    help="How often everything is measured. [default: 3]",
)
@click.option(
    "--quick", is_flag=True, help="Less of everything: 1,4 streams, 32 tokens, 400 words, 1 round."
)
@click.option(
    "--full",
    is_flag=True,
    help=(
        "More: 1,3,5,7,10 streams, 1,3,5 in turn, conversations of 2K to 16K tokens, memory of "
        "reference models."
    ),
)
@click.option(
    "--bare/--no-bare",
    "has_bare",
    default=True,
    help="Also run mlx-lm's bare engine on the same prompts, after the server.",
)
@click.option(
    "--seed",
    default=None,
    help="Makes the prompts the same again; by default no two runs have the same.",
)
@click.option(
    "--json",
    "json_file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write everything to a file.",
)
@click.option(
    "--compare",
    "earlier",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="An earlier --json file.",
)
@click.option(
    "--plot",
    "plot_files",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="Draw a .png or .svg; may be repeated.",
)
@settings_options
def bench(  # noqa: PLR0913  # click hands over each option
    config_file: Path | None,
    url: str | None,
    streams: str | None,
    tokens: int | None,
    words: int | None,
    contexts: str | None,
    rounds: int | None,
    seed: str | None,
    json_file: Path | None,
    plot_files: tuple[Path, ...],
    earlier: Path | None,
    *,
    has_bare: bool,
    quick: bool,
    full: bool,
    **options: object,
) -> None:
    """Measure tokens per second, first tokens, neighbours and a restart of a server.

    The table goes to standard output, the progress to standard error.
    """
    if quick and full:
        raise click.UsageError("--quick is less of everything, and --full more")
    from semantic_trio.entrypoints.bench import command
    from semantic_trio.entrypoints.bench.comparison import read_baseline

    with known_ends():
        extent = command.FULL if full else command.QUICK if quick else command.USUAL
        wanted = command.options(
            streams, tokens, words, rounds, seed, extent, has_bare=has_bare, contexts=contexts
        )
        command.check_files(json_file, plot_files)
        baseline = read_baseline(earlier) if earlier else None
        server = command.target(
            url, load(config_file, options).settings, given(options), config_file
        )
        code = command.carry_out(wanted, server, json_file, plot_files, baseline)
    sys.exit(code)
