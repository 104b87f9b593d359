"""Settings from all their sources.

Later sources win: built-in, `config/default.toml`, `config/{environment}.toml` or `--config`,
`.env`, environment (`SEMANTIC_*`), command line.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import typed_settings as ts
from typed_settings.cls_utils import deep_options

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.model_tables import Tables, merged, read_tables
from semantic_trio.entrypoints.settings import Settings, aliases_of, settings_of
from semantic_trio.entrypoints.sources import SettingSource, check_values, problem_of, sources


@attrs.frozen
class SourcedSettings:
    """Settings and, by name, the source each value came from."""

    settings: Settings
    sources: Mapping[str, str]
    models: Tables = attrs.field(factory=dict)  # settings of single models

    def settings_of(self, model: str) -> Settings:
        """Return the settings that a model is loaded with."""
        return settings_of(self.settings, self.models, model)


def load(
    overrides: Mapping[str, object], config_file: Path | None = None, base: Path | None = None
) -> SourcedSettings:
    """Read all sources; relative paths are looked up in `base`, by default the working directory.

    Raises `InvalidRequestError` naming the setting that is wrong, and where it was set.
    """
    options, converter = deep_options(Settings), _converter()
    try:
        chain = sources(overrides, config_file, base or Path.cwd(), options)
        labels = check_values(chain, Settings, options, converter.structure)
        settings = ts.load_settings(
            Settings, [source.loader for source in chain], converter=converter
        )
        return _with_tables(settings, labels, chain, converter.structure)
    except* (ts.exceptions.TsError, ValueError, TypeError, OSError) as errors:
        problem = _first_line(errors)
    raise InvalidRequestError(problem, field="settings")


def _with_tables(
    settings: Settings,
    labels: Mapping[str, str],
    chain: Sequence[SettingSource],
    convert: Callable[[Any, Any], Any],
) -> SourcedSettings:
    """Add the settings of single models.

    A model that has a table is served. Raises `InvalidRequestError` for a table that is wrong.
    """

    def read(attribute: "attrs.Attribute[Any]", value: object) -> object:
        if problem := problem_of(attribute, value, convert):
            raise ValueError(problem)
        converted: object = convert(value, attribute.type)
        return converted

    tables: Tables = {}
    for source in chain:
        tables = merged(tables, read_tables(source.models, Settings, source.label, read))
    aliased = sorted(tables.keys() & aliases_of(settings.aliases).keys())
    if aliased:
        raise InvalidRequestError(
            f"models.{aliased[0]} is the table of an alias: give it the name of the model",
            field="settings",
            quotes=False,
        )
    others = tuple(
        dict.fromkeys((*settings.models, *(name for name in tables if name != settings.model_id)))
    )
    return SourcedSettings(attrs.evolve(settings, models=others), labels, tables)


def _converter() -> ts.converters.Converter:
    """Conversion of text to values; lists are written with commas, as host names may hold
    colons.
    """
    return ts.converters.TSConverter(resolve_paths=False, strlist_sep=",")


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
