"""What this machine has, and what to do about what it lacks."""

import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

import attrs

from semantic_trio.adapters.mlx import BLAS
from semantic_trio.adapters.mlx.device import describe_device
from semantic_trio.entrypoints.settings import Settings

PACKAGES = ("semantic-trio", "mlx", "mlx-lm", "trio", "hypercorn", "quart", "quart-trio", "transformers", "tokenizers", "safetensors")


@attrs.frozen
class Finding:
    """One line of the report. `cure` is empty where nothing is wrong."""

    subject: str
    found: str
    cure: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything a server needs."""
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")
    yield _versions()
    yield Finding("BLAS", BLAS.library or str(BLAS), BLAS.cure)
    yield Finding("device", describe_device())
    yield _compiler()
    yield _disk(settings)


def _versions() -> Finding:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    missing = [name for name, number in found.items() if number == "missing"]
    return Finding("packages", ", ".join(f"{k} {v}" for k, v in found.items()), f"pip install {' '.join(missing)}" if missing else "")


def _compiler() -> Finding:
    if sys.platform == "darwin" or shutil.which("g++"):
        return Finding("compiler", "found" if sys.platform != "darwin" else "not needed")
    return Finding("compiler", "no g++: MLX compiles fused kernels while running", "apt-get install g++")


def _disk(settings: Settings) -> Finding:
    directory = settings.data_dir
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    return Finding("disk", f"{free / 1e9:.1f} GB free for models in {settings.data_dir}", "free some space" if free < 2e9 else "")
