"""The environment file of a service: lines that the server reads as `.env` and systemd as
`EnvironmentFile=`.

Knows what both take. Knows no setting.
"""

import io
import re
from collections.abc import Mapping

from dotenv import dotenv_values

from semantic_trio.domain.errors import InvalidRequestError

HEADER = """\
# Environment of the semantic-trio service, one NAME="value" a line.
# A name is SEMANTIC_ and a setting's name in capitals (`semantic-trio config` lists all).
# An API key may stand here: only you may read this file.
# After a change, run `semantic-trio service install` again.
"""
NAME = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*)\s*=")


def updated(text: str, variables: Mapping[str, str]) -> str:
    """Return the text of an environment file in which these variables are set, and everything else
    is as it was.

    Raises `InvalidRequestError` for a value that would be read as another one.
    """
    lines = {name: f"{name}={_quoted(value)}" for name, value in variables.items()}
    result = "".join(f"{lines.get(_name(line), line)}\n" for line in (text or HEADER).splitlines())
    result += "".join(f"{line}\n" for name, line in lines.items() if name not in _read(text))
    wanted, read = {**_read(text), **variables}, _read(result)
    for name, value in wanted.items():
        if read.get(name) != value or not (value or "").isprintable():
            raise InvalidRequestError(
                (
                    f"{name}: its value cannot be written to an environment file: no control "
                    f"characters, no ${{"
                ),
                quotes=False,
            )
    return result


def _read(text: str) -> dict[str, str | None]:
    return dotenv_values(stream=io.StringIO(text))


def _name(line: str) -> str:
    """Return the name that a line sets; empty: it sets none."""
    found = NAME.match(line)
    return found[1] if found else ""


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
