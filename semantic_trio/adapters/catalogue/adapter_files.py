"""Adapters in a directory: each a directory of its own, as mlx-lm's training writes it.

Knows files and names. Knows nothing of weights.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

from semantic_trio.application.adapters import AdapterFiles
from semantic_trio.domain.salt import ADAPTER_BYTES

FILES = ("adapter_config.json", "adapters.safetensors")
# Stands between a model and its adapter in a request, so that no name of an adapter has one.
SEPARATOR = ":"


def adapters_in(directory: Path, model: str, model_path: Path | None) -> list[AdapterFiles]:
    """Return the adapters in a directory, by name, as seen from a model; `model_path` is the
    model's own directory, where it has one.
    """
    found = (
        path
        for path in _directories(directory)
        if SEPARATOR not in path.name and any((path / name).is_file() for name in FILES)
    )
    return [_adapter(path, model, model_path) for path in sorted(found, key=lambda path: path.name)]


def digest_of(path: Path) -> bytes:
    """Return a digest of what an adapter is: of its configuration and all its weights.

    Raises `OSError`.
    """
    digest = hashlib.sha256()
    for name in FILES:
        if (path / name).is_file():  # without it the adapter is refused later, with a reason
            with (path / name).open("rb") as content:
                digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.digest()[:ADAPTER_BYTES]


def _directories(directory: Path) -> Iterator[Path]:
    try:
        yield from (path for path in directory.iterdir() if path.is_dir())
    except OSError:
        return  # none is there


def _adapter(path: Path, model: str, model_path: Path | None) -> AdapterFiles:
    base = _base(path)
    return AdapterFiles(path.name, path, base, not base or _is_same(base, model, model_path))


def _base(path: Path) -> str:
    """Return the model that an adapter was trained on, by its configuration; empty where that does
    not say.
    """
    try:
        config = json.loads((path / FILES[0]).read_bytes())
    except (OSError, ValueError):
        return ""
    base = config.get("model") if isinstance(config, dict) else None
    return base if isinstance(base, str) else ""


def _is_same(base: str, model: str, model_path: Path | None) -> bool:
    """True if two names mean one model: training may name it by a path, by its Hub id, or by the
    last part of either.
    """
    if model_path is not None and _resolved(base) == model_path.resolve():
        return True
    names = {Path(model).name, *([model_path.name] if model_path is not None else [])}
    return Path(base).name.casefold() in {name.casefold() for name in names}


def _resolved(base: str) -> Path | None:
    """Return the path that a configuration names; None for what cannot be one."""
    try:
        return Path(base).expanduser().resolve()
    except (OSError, RuntimeError, ValueError):  # a loop of links, a home of nobody, a zero byte
        return None
