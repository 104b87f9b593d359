"""Sources of settings, and what is wrong with a value, told together with the source that it came
from.

Knows files, the environment and the command line. Knows no single setting.
"""

import difflib
import enum
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import typed_settings as ts
from dotenv import dotenv_values
from typed_settings.loaders import DictLoader, DotEnvLoader, Loader
from typed_settings.types import LoadedSettings, OptionList

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.model_tables import SECTION as MODELS

PREFIX = "SEMANTIC_"
SECTION = "semantic"
# Names a file of the working directory, and is no setting.
ENVIRONMENT = f"{PREFIX}ENVIRONMENT"
ENV_FILE = ".env"
# Of a value that a type of setting cannot have.
WRONG: dict[object, str] = {
    int: "is no whole number",
    float: "is no number",
    bool: "is neither true nor false",
}


@attrs.frozen
class SettingSource:
    """A place that values come from."""

    label: str  # for people
    loader: Loader
    models: object = attrs.field(factory=dict)  # the section of single models, as the file has it

    def values(self, settings: type, options: OptionList) -> Iterator[tuple[str, Any]]:
        """The values of this source by the names of their settings."""
        loaded = self.loader(settings, options)
        for part in [loaded] if isinstance(loaded, LoadedSettings) else loaded:
            yield from part.settings.items()


def sources(
    overrides: Mapping[str, object], config_file: Path | None, base: Path, options: OptionList
) -> list[SettingSource]:
    """All sources; later ones win.

    Raises `InvalidRequestError` for a file that cannot be read, and for a name that is no setting.
    """
    files = [(file, False) for file in _files(base)] + (
        [(config_file, True)] if config_file else []
    )
    chain = [_file_source(file, mandatory=mandatory) for file, mandatory in files]
    names = {f"{PREFIX}{option.path.upper()}" for option in options}
    if (base / ENV_FILE).is_file():
        _check_names(dotenv_values(base / ENV_FILE), names, ENV_FILE)
        chain.append(SettingSource(ENV_FILE, DotEnvLoader(PREFIX, base / ENV_FILE)))
    _check_names(os.environ, names | {ENVIRONMENT}, "environment")
    chain.append(SettingSource("environment", ts.EnvLoader(PREFIX)))
    chain.append(SettingSource("command line", DictLoader(dict(overrides))))
    return chain


def check_values(
    chain: Sequence[SettingSource],
    settings: type,
    options: OptionList,
    convert: Callable[[Any, Any], Any],
) -> dict[str, str]:
    """The label of the source that each setting has its value from.

    Raises `InvalidRequestError` for a value that cannot be: with the setting, its source, and what
    the setting means.
    """
    winning = {
        name: (source.label, value)
        for source in chain
        for name, value in source.values(settings, options)
    }
    for option in options:
        if option.path in winning:
            label, value = winning[option.path]
            attribute = attrs.fields_dict(settings)[option.path]
            if problem := problem_of(attribute, value, convert):
                raise InvalidRequestError(
                    f"{problem} ({label}). {attribute.metadata['typed-settings']['help']}",
                    quotes=False,
                )
    return {option.path: winning.get(option.path, ("built-in", None))[0] for option in options}


def problem_of(
    attribute: "attrs.Attribute[Any]", value: object, convert: Callable[[Any, Any], Any]
) -> str:
    """Return what is wrong with a value; empty where nothing is."""
    try:
        if _loses_value(value, attribute.type):
            raise TypeError
        converted = convert(value, attribute.type)
    except (ValueError, TypeError, OverflowError):
        return f"{attribute.name}: {value!r} {_wrong(attribute.type)}"
    try:
        if attribute.validator is not None:
            attribute.validator(None, attribute, converted)
    except ValueError as error:
        return str(error)
    return ""


def _loses_value(value: object, wanted: object) -> bool:
    """True if a number of another kind would be made of a value of a file."""
    if isinstance(value, bool):
        return wanted in (int, float)
    return wanted is int and isinstance(value, float) and value % 1 != 0


def _wrong(wanted: object) -> str:
    if isinstance(wanted, type) and issubclass(wanted, enum.Enum):
        return f"is none of {', '.join(str(member.value) for member in wanted)}"
    return WRONG.get(wanted, "cannot be read")


def _check_names(given: Mapping[str, object], names: set[str], label: str) -> None:
    for name in sorted(given):
        if name.startswith(PREFIX) and name not in names:
            raise InvalidRequestError(
                f"{name} is no setting ({label}): {_remedy(name, names)}", quotes=False
            )


def _remedy(name: str, names: set[str]) -> str:
    if name == ENVIRONMENT:
        return "it names a file, and belongs into the environment itself"
    close = difflib.get_close_matches(
        name.removeprefix(PREFIX), [known.removeprefix(PREFIX) for known in names], 2
    )
    return (
        f"did you mean {' or '.join(PREFIX + known for known in close)}?"
        if close
        else "`semantic-trio config` lists all; remove this one"
    )


def _files(base: Path) -> Iterator[Path]:
    default = base / "config" / "default.toml"
    if default.is_file():
        yield default
    if environment := os.environ.get(ENVIRONMENT, ""):
        named = base / "config" / f"{environment}.toml"
        if not named.is_file():
            raise InvalidRequestError(
                f"{named} does not exist: make it, or unset {ENVIRONMENT}", quotes=False
            )
        yield named


def _file_source(file: Path, *, mandatory: bool) -> SettingSource:
    """The values of a TOML file. The parser's own errors do not say in which file."""
    try:
        content = tomllib.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            f"settings: {file}: {error.strerror if isinstance(error, OSError) else error}",
            quotes=False,
        ) from error
    outside = content.keys() - {SECTION, MODELS}
    if outside:
        raise InvalidRequestError(
            (
                f"settings: {file}: {min(outside)!r} stands outside of [{SECTION}], where it has "
                "no effect"
            ),
            quotes=False,
        )
    name = f"!{file}" if mandatory else str(file)
    loader = ts.FileLoader(formats={"*.toml": ts.TomlFormat(SECTION)}, files=[name])
    return SettingSource(str(file), loader, content.get(MODELS, {}))
