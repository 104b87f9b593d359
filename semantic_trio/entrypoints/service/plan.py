"""Command, directory and environment of a server that a service manager runs, made from the options
of `service install`.

Knows settings. Knows neither launchd nor systemd, and writes nothing.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs
from typed_settings.types import SecretStr

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.directory import LocalDirectory
from semantic_trio.entrypoints.ending import longest_end_seconds
from semantic_trio.entrypoints.options import as_arguments, given, load
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.sources import ENV_FILE, PREFIX

SERVE = (sys.executable, "-m", "semantic_trio", "serve")
# Their defaults follow XDG variables of the shell, which a service manager does not know.
PINNED = ("data_dir", "cache_dir")


@attrs.frozen
class Plan:
    """A server as a service manager is to run it."""

    command: tuple[str, ...]
    directory: Path  # the working directory; the server reads `.env` there
    stop_seconds: int  # from SIGTERM to SIGKILL
    settings: Settings  # in force for the server
    variables: Mapping[str, str] = attrs.field(factory=dict)  # to be set in the environment file

    @property
    def environment_file(self) -> Path:
        """File of environment variables, which only its owner may read."""
        return self.directory / ENV_FILE


def make_plan(
    config_file: Path | None, options: Mapping[str, object], directory: Path, log_file: Path | None
) -> Plan:
    """Plan of a server with these options that works in a directory.

    It logs to `log_file` where the settings name no file.

    Options become arguments, but secrets do not: anybody on the machine can read arguments. Secrets
    and variables of the environment become lines of the environment file. Raises
    `InvalidRequestError` for settings that cannot be.
    """
    named = given(options)
    loaded = load(config_file, named, directory)
    if log_file and loaded.settings.log_file is None:
        named["log_file"] = str(log_file)
        loaded = load(config_file, named, directory)
    texts = {
        name: value if isinstance(value, bool) else str(_lasting(loaded.settings, name, value))
        for name, value in named.items()
    }
    secrets = {
        name: text
        for name, text in texts.items()
        if isinstance(getattr(loaded.settings, name), SecretStr)
    }
    arguments = [
        *_config(config_file),
        *as_arguments({name: text for name, text in texts.items() if name not in secrets}),
    ]
    inherited = dict(_inherited(loaded.settings, loaded.sources))
    variables = {variable(name): str(text) for name, text in {**inherited, **secrets}.items()}
    return Plan(
        (*SERVE, *arguments),
        directory,
        longest_end_seconds(loaded.settings),
        loaded.settings,
        variables,
    )


def left_behind(
    config_file: Path | None, options: Mapping[str, object], plan: Plan
) -> Iterator[tuple[str, str]]:
    """Settings whose values come from a file of the working directory, which the service does not
    read; with the file of each.
    """
    here = load(config_file, options)
    for name, source in here.sources.items():
        if getattr(here.settings, name) != getattr(plan.settings, name) and source not in {
            "built-in",
            "environment",
        }:
            yield name, source


def variable(setting: str) -> str:
    """Return the variable of the environment that sets a setting."""
    return f"{PREFIX}{setting.upper()}"


def _config(config_file: Path | None) -> tuple[str, ...]:
    return () if config_file is None else ("--config", str(config_file.absolute()))


def _inherited(settings: Settings, sources: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    """Settings that come from the environment of this process, and those whose defaults do."""
    for name, source in sources.items():
        if source == "environment":
            yield name, _lasting(settings, name, os.environ[variable(name)])
        elif source == "built-in" and name in PINNED:
            yield name, getattr(settings, name)


def _lasting(settings: Settings, name: str, text: object) -> object:
    """Return the text of a setting, with a path made absolute: the service works in another
    directory.
    """
    match name:
        case "model_id":
            return _lasting_model(settings, str(text))
        case "models":
            return ",".join(_lasting_model(settings, model) for model in _listed(text))
        case "aliases":
            pairs = (pair.partition("=") for pair in _listed(text))
            return ",".join(
                f"{alias.strip()}={_lasting_model(settings, model.strip())}"
                for alias, _, model in pairs
            )
    value = getattr(settings, name)
    return value.absolute() if isinstance(value, Path) else text


def _listed(text: object) -> list[str]:
    return [item.strip() for item in str(text).split(",") if item.strip()]


def _lasting_model(settings: Settings, name: str) -> str:
    """Return the name of a model; of one that is a directory, its absolute path.

    Raises `ModelNotFoundError` for a name that means nothing.
    """
    source = open_catalogue(settings.data_dir).resolve(name)
    return str(source.path.absolute()) if isinstance(source, LocalDirectory) else name
