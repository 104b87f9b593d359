"""Findings about this machine, and what to do about what it lacks."""

import json
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata

import attrs

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.disk import CacheDirectory
from semantic_trio.adapters.mlx import BLAS
from semantic_trio.adapters.mlx.budget import usual_cache_mb
from semantic_trio.adapters.mlx.device import blas_cure, describe_device, element_bits
from semantic_trio.domain.errors import InvalidRequestError, ModelNotFoundError
from semantic_trio.domain.families import published_spec
from semantic_trio.domain.quantisation import AS_COMPUTED
from semantic_trio.entrypoints.printing import counted, human
from semantic_trio.entrypoints.probing import ask_rates, read_rate
from semantic_trio.entrypoints.settings import Settings

PACKAGES = (
    "semantic-trio",
    "mlx",
    "mlx-lm",
    "trio",
    "hypercorn",
    "quart",
    "quart-trio",
    "transformers",
    "tokenizers",
    "safetensors",
)
CONTEXT = 8192  # tokens of a conversation that is counted in
MIB = 2**20


@attrs.frozen
class Finding:
    """One line of the report. `cure` is empty where nothing is wrong."""

    subject: str
    found: str
    cure: str = ""


def examine(settings: Settings) -> Iterator[Finding]:
    """Look at everything a server needs."""
    yield Finding(
        "python", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores"
    )
    yield _versions()
    yield Finding("BLAS", BLAS.library or str(BLAS), blas_cure())
    yield Finding("device", describe_device())
    yield _compiler()
    yield _disk(settings)
    yield _cache(settings)
    yield from _server(settings)
    yield from _memory(settings)


def _versions() -> Finding:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "missing"
    missing = [name for name, number in found.items() if number == "missing"]
    return Finding(
        "packages",
        ", ".join(f"{k} {v}" for k, v in found.items()),
        f"pip install {' '.join(missing)}" if missing else "",
    )


def _compiler() -> Finding:
    if sys.platform == "darwin" or shutil.which("g++"):
        return Finding("compiler", "found" if sys.platform != "darwin" else "not needed")
    return Finding(
        "compiler", "no g++: MLX compiles fused kernels while running", "apt-get install g++"
    )


def _disk(settings: Settings) -> Finding:
    directory = settings.data_dir
    while not directory.exists():
        directory = directory.parent
    free = shutil.disk_usage(directory).free
    return Finding(
        "disk",
        f"{free / 1e9:.1f} GB free for models in {settings.data_dir}",
        "free some space" if free < 2e9 else "",
    )


def _cache(settings: Settings) -> Finding:
    """The disk tier: what it takes, what it may take, and how fast it is read."""
    root, floor = settings.cache_dir, settings.disk_floor_mb * MIB
    if not settings.disk_budget_mb:
        return Finding("cache", "off: disk_budget_mb = 0")
    directory = next(path for path in (root, *root.absolute().parents) if path.is_dir())
    try:
        models = CacheDirectory(root).models()
        used = (
            f"{human(sum(model.bytes for model in models))} used by {counted(len(models), 'model')}"
        )
        rate = f"read at {read_rate(directory) / 1e6:,.0f} MB/s"
    except OSError as error:
        return Finding(
            "cache", f"{root}: {error.strerror}", "name another directory with --cache-dir"
        )
    free = shutil.disk_usage(directory).free
    room = f"{human(free)} free, of which {human(floor)} stay free"
    return Finding(
        "cache",
        f"{root}: {used}, {room}, {rate}",
        "" if free > floor else "free some space, or lower disk_floor_mb",
    )


def _server(settings: Settings) -> Iterator[Finding]:
    """Yield what a running server with these settings has measured."""
    rates = ask_rates(settings)
    if rates is None:
        return
    if rates.layout:
        yield Finding("server", f"rows go through the model as: {rates.layout}")
    if not rates.computed or not rates.read:
        computed = (
            f"prompts are computed at {rates.computed:,.0f} tokens/s"
            if rates.computed
            else "no prompt has been computed yet"
        )
        read = (
            f"memory is read from disk at {rates.read:,.0f} tokens/s"
            if rates.read
            else "nothing has come back from disk yet"
        )
        yield Finding("server", f"runs on port {settings.port}: {computed}; {read}")
        return
    verdict = "reading is faster" if rates.read > rates.computed else "computing is faster"
    yield Finding(
        "server",
        (
            f"prompts are computed at {rates.computed:,.0f} tokens/s and read from disk at "
            f"{rates.read:,.0f} tokens/s: {verdict}"
        ),
    )


def _memory(settings: Settings) -> Iterator[Finding]:
    """Yield the geometry of the configured model's caches, if the model is on this machine."""
    try:
        path = open_catalogue(settings.data_dir).path(settings.model_id)
        config = json.loads((path / "config.json").read_text())
    except (ModelNotFoundError, OSError, ValueError):
        return
    try:
        spec = published_spec(config, "", element_bits(config), settings.kv_bits)
    except InvalidRequestError as error:
        yield Finding(
            "memory",
            f"{settings.model_id}: {error}",
            f"set kv_bits = {AS_COMPUTED}, or take another model",
        )
        return
    if spec is None:
        yield Finding("memory", f"{settings.model_id}: a family measured only when it is loaded")
        return
    budget = settings.cache_budget_mb or usual_cache_mb()
    held, count = spec.context_bytes(CONTEXT), spec.agents_that_fit(budget * MIB, CONTEXT)
    found = (
        f"{settings.model_id}: {spec.block_bytes(1):,} bytes a token, {held / MIB:,.0f} MiB for "
        f"{CONTEXT:,} tokens"
    )
    fit = f"{count} such contexts fit cache_budget_mb = {budget:,}"
    yield Finding(
        "memory",
        f"{found}: {fit}",
        "" if count else "raise cache_budget_mb, or take a smaller model",
    )
