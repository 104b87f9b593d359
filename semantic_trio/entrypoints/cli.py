"""The command line: `semantic-trio serve | drain | claude | models | cache | agents | events |
config | doctor | bench | service | completion`.
"""

import sys
from pathlib import Path

import attrs
import click
from typed_settings.types import SecretStr

import semantic_trio
from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.scripted.rules import read_script
from semantic_trio.entrypoints import claude as claude_code
from semantic_trio.entrypoints import logging
from semantic_trio.entrypoints.agents_cli import agents
from semantic_trio.entrypoints.bench_cli import bench
from semantic_trio.entrypoints.cache_cli import cache
from semantic_trio.entrypoints.catalogue_cli import (
    list_models,
    model_path,
    pull_model,
    remove_model,
)
from semantic_trio.entrypoints.completion_cli import completion
from semantic_trio.entrypoints.drain_cli import drain
from semantic_trio.entrypoints.events_cli import events
from semantic_trio.entrypoints.exits import known_ends
from semantic_trio.entrypoints.model_tables import SETTINGS
from semantic_trio.entrypoints.models_cli import alias_model, load_model, swap_model, unload_model
from semantic_trio.entrypoints.options import load, settings_options
from semantic_trio.entrypoints.safety import check, check_models
from semantic_trio.entrypoints.service.command import service
from semantic_trio.entrypoints.settings import Settings

CURL = """
  curl {url}/v1/chat/completions -H 'content-type: application/json' -d \\
    '{{"model": "{model}", "temperature": 0, "max_tokens": 64,
      "messages": [{{"role": "user", "content": "What is the capital of France?"}}]}}'
"""

ASKS_FIRST = (
    "Claude Code will ask you before it changes files or runs commands: no local model can judge "
    "which are safe. "
    "Another mode: semantic-trio claude --run -- --permission-mode acceptEdits"
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(semantic_trio.__version__, prog_name="semantic-trio")
def main() -> None:
    """A local inference server for several agents on one machine."""


@main.command()
@settings_options
@click.option(
    "--script",
    "script_file",
    type=click.Path(path_type=Path),
    default=None,
    help="For tests: a JSON file of answers to give.",
)
def serve(config_file: Path | None, script_file: Path | None, **options: object) -> None:
    """Serve a model until told to stop."""
    with known_ends():
        script = read_script(script_file) if script_file else None
        loaded = load(
            config_file, options | ({} if script is None else {"model_id": "tiny-random"})
        )
        chosen = loaded.settings
        logging.configure(chosen.log_format, chosen.log_level, chosen.log_file)
        check(chosen)
        catalogue = open_catalogue(chosen.data_dir)
        model = catalogue.ensure(chosen.model_id, Lines())
        check_models(chosen, catalogue.path)

    def announce(url: str) -> None:
        click.echo(
            f"semantic-trio {semantic_trio.__version__} serves {chosen.model_id} on {url}\n\n"
            f"Try it:{CURL.format(url=url, model=chosen.model_id)}\n"
            f"{'' if chosen.key else f'In a browser: {url}/   '}To stop: Ctrl-C"
        )

    # Importing the server imports MLX, which takes seconds: mistakes above are told before.
    from semantic_trio.entrypoints.serve import run

    with known_ends():
        run(chosen, model, announce, script, loaded.models)


@main.command()
@click.option(
    "--url",
    default=None,
    metavar="URL",
    help="Where the server is; by default where the settings put it.",
)
@click.option(
    "--json", "wants_json", is_flag=True, help="As the `env` of Claude Code's settings.json."
)
@click.option(
    "--run",
    "is_to_run",
    is_flag=True,
    help="Start Claude Code with them; what follows `--` goes to it.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def claude(
    url: str | None, arguments: tuple[str, ...], *, wants_json: bool, is_to_run: bool
) -> None:
    """Print the settings with which Claude Code talks to the running server."""
    if arguments and not is_to_run:
        raise click.UsageError("arguments are for Claude Code, and it is started by --run")
    with known_ends():
        chosen = load(None, {}).settings
        served = claude_code.ask(url or claude_code.default_url(chosen), chosen.key)
        for doubt in served.doubts:
            click.echo(f"semantic-trio: {doubt}", err=True)
        if is_to_run:
            in_force = claude_code.arguments_in_force(arguments)
            if in_force != arguments:
                click.echo(f"semantic-trio: {ASKS_FIRST}", err=True)
            claude_code.start(served.variables, in_force)
    click.echo(
        claude_code.as_json(served.variables)
        if wants_json
        else claude_code.as_exports(served.variables)
    )


@main.group()
def models() -> None:
    """Models on this machine, and those of the running server."""


for of_models in (
    list_models,
    pull_model,
    remove_model,
    model_path,
    load_model,
    unload_model,
    swap_model,
    alias_model,
):
    models.add_command(of_models)
main.add_command(bench)
main.add_command(cache)
main.add_command(completion)
main.add_command(agents)
main.add_command(drain)
main.add_command(events)
main.add_command(service)


@main.command()
@settings_options
def config(config_file: Path | None, **options: object) -> None:
    """Print the settings in force and where each comes from."""
    with known_ends():
        loaded = load(config_file, options)
    for field in attrs.fields(Settings):
        value = getattr(loaded.settings, field.name)
        shown = "(set)" if isinstance(value, SecretStr) and value else str(value)
        click.echo(f"{field.name:26} {shown:40} {loaded.sources[field.name]}")
    for model, table in loaded.models.items():
        for name, key in SETTINGS.items():
            if key in table:
                click.echo(f"models.{model}.{name} {table[key]}")


@main.command()
@click.option(
    "--report",
    is_flag=True,
    help="Also prove the layouts of the KV cache on tiny models, and time them: for a bug report.",
)
@settings_options
def doctor(config_file: Path | None, *, report: bool, **options: object) -> None:
    """Say what this machine has and what to do about what it lacks."""
    with known_ends():
        loaded = load(config_file, options)
        chosen = loaded.settings_of(loaded.settings.model_id)
    from semantic_trio.entrypoints.doctor import examine

    with known_ends():
        findings = list(examine(chosen))
    for finding in findings:
        click.echo(f"{'!' if finding.cure else ' '} {finding.subject:10} {finding.found}")
        if finding.cure:
            click.echo(f"             do: {finding.cure}")
    if report:
        from semantic_trio.adapters.mlx.report import layouts

        for line in layouts():
            click.echo(f"  layout     {line}")
    sys.exit(1 if any(finding.cure for finding in findings) else 0)
