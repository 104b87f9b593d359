"""Settings of single models: the tables `[models.NAME]` of configuration files.

Knows which settings a model may have a value of its own for. Knows nothing of models.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from typing import Any

import attrs

from semantic_trio.domain.errors import InvalidRequestError

# The section of a file, and the settings of a table by the names that they have there, with the
# server's setting whose place each takes. The weights and the use of a model decide these; what is
# shared by all models of the device (batches, steps, the disk) is the server's alone.
SECTION = "models"
SETTINGS = {
    "idle_seconds": "model_idle_seconds",
    "context_length": "context_length",
    "kv_bits": "kv_bits",
    "cache_budget_mb": "cache_budget_mb",
}

BARE = re.compile(r"[A-Za-z0-9_-]+")  # names that need no quotes in TOML

Table = Mapping[str, Any]  # values by the names of the server's settings; Any: as TOML has them
Tables = Mapping[str, Table]  # by the name of the model
# Converts the value of a setting. Raises `ValueError` for one that cannot be, with a text that
# begins with the name of the setting.
Read = Callable[["attrs.Attribute[Any]", object], object]


def read_tables(section: object, settings: type, label: str, read: Read) -> Tables:
    """Return the tables of a file's section.

    Raises `InvalidRequestError` with the file's `label` for what cannot be.
    """
    if not isinstance(section, dict):
        raise InvalidRequestError(
            f"settings: {label}: [{SECTION}] has tables alone: write [{SECTION}.NAME]", quotes=False
        )
    return {
        name: _table(_path(name), table, settings, label, read) for name, table in section.items()
    }


def merged(tables: Mapping[str, Table], later: Tables) -> Tables:
    """Return tables with the values of a later file, which win."""
    return {
        name: {**tables.get(name, {}), **later.get(name, {})}
        for name in (*tables, *(name for name in later if name not in tables))
    }


def _table(path: str, table: object, settings: type, label: str, read: Read) -> Table:
    if not isinstance(table, dict):
        raise InvalidRequestError(
            f"settings: {label}: {path} is no table: write [{path}]", quotes=False
        )
    values: dict[str, object] = {}
    for name, value in table.items():
        if name not in SETTINGS:
            raise InvalidRequestError(
                f"settings: {label}: {path}.{name} is no setting of a model: "
                + _remedy(name, value),
                quotes=False,
            )
        try:
            values[SETTINGS[name]] = read(attrs.fields_dict(settings)[SETTINGS[name]], value)
        except ValueError as error:
            raise InvalidRequestError(
                f"settings: {label}: {path}.{name}{str(error).removeprefix(SETTINGS[name])}",
                quotes=False,
            ) from error
    return values


def _path(name: str) -> str:
    """Return the path of a model's table as TOML has it, with quotes where the name needs them."""
    return f"{SECTION}.{name}" if BARE.fullmatch(name) else f'{SECTION}."{name}"'


def _remedy(name: str, value: object) -> str:
    if isinstance(value, dict):
        return f'a name with a dot or a slash stands in quotes: [{SECTION}."NAME"]'
    close = difflib.get_close_matches(name, SETTINGS, 1)
    return f"did you mean {close[0]}?" if close else f"it has {', '.join(SETTINGS)}"
