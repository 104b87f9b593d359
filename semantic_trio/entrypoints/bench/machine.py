"""The machine and the packages, on which figures depend besides the code."""

import os
import platform
from importlib import metadata
from pathlib import Path

from semantic_trio.entrypoints.bench.results import Machine

PACKAGES = (
    "semantic-trio",
    "mlx",
    "mlx-lm",
    "trio",
    "hypercorn",
    "quart-trio",
    "transformers",
    "tokenizers",
)


def machine() -> Machine:
    """Return the description of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        platform.platform(),
        _processor(),
        os.cpu_count() or 0,
        memory,
        platform.python_version(),
        os.getloadavg()[0],
    )


def versions() -> dict[str, str]:
    """Packages that matter, by name."""
    installed = {one.name for one in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def _processor() -> str:
    """The name of the processor where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.machine(),
    )
