"""Settings as options of a command: declared, read, and written again."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import attrs
import click

from semantic_trio.entrypoints import settings_loading
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.settings_loading import SourcedSettings

# Options whose name on the command line is not the setting's.
SHORT = {"model_id": "--model"}

Command = Callable[..., object]


def settings_options(command: Command) -> Command:
    """An option for every setting, and one for a file of them."""
    for field in reversed(attrs.fields(Settings)):
        text, name = field.metadata["typed-settings"]["help"], option_name(field.name)
        if field.type is bool:
            name = f"{name}/--no-{name[2:]}"
        command = click.option(
            name,
            field.name,
            default=None,
            help=text,
            metavar=None if field.type is bool else field.name.upper(),
        )(command)
    return click.option(
        "--config",
        "config_file",
        type=click.Path(path_type=Path),
        default=None,
        help="A TOML file of settings.",
    )(command)


def option_name(setting: str) -> str:
    """Return the option of a setting: `--max-batch-size`."""
    return SHORT.get(setting, f"--{setting.replace('_', '-')}")


def load(
    config_file: Path | None, options: Mapping[str, object], base: Path | None = None
) -> SourcedSettings:
    """Settings in force with the options of a command. Raises `InvalidRequestError`."""
    return settings_loading.load(given(options), config_file, base)


def given(options: Mapping[str, object]) -> dict[str, object]:
    """The options that the command line names."""
    return {name: value for name, value in options.items() if value is not None}


def as_arguments(options: Mapping[str, object]) -> Iterator[str]:
    """Write options as arguments of a command that has them all."""
    for setting, value in options.items():
        name = option_name(setting)
        if isinstance(value, bool):
            yield name if value else f"--no-{name[2:]}"
        else:
            yield from (name, str(value))


def from_arguments(arguments: Sequence[str]) -> tuple[Path | None, dict[str, object]]:
    """Read the arguments of a command that has the options of all settings and nothing else: the
    file of settings, and the options by name.
    """
    command = click.Command("serve")
    settings_options(command)
    with command.make_context("serve", list(arguments)) as context:
        return context.params.pop("config_file"), given(context.params)
