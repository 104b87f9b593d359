"""What a figure depends on besides the code: the machine, the packages, the commit."""

import os
import platform
import shutil
import subprocess
from importlib import metadata
from pathlib import Path

import semantic_trio
from semantic_trio.entrypoints.bench.results import Machine

PACKAGES = ("semantic-trio", "mlx", "mlx-lm", "trio", "hypercorn", "quart-trio", "transformers", "tokenizers")


def machine() -> Machine:
    """This machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(platform.platform(), _processor(), os.cpu_count() or 0, memory, platform.python_version(), os.getloadavg()[0])


def versions() -> dict[str, str]:
    """Packages that matter, by name."""
    installed = {one.name for one in metadata.distributions()}
    return {name: metadata.version(name) for name in PACKAGES if name in installed}


def commit() -> str:
    """The commit of the checkout that this package is part of, with `-dirty` where it was changed; empty elsewhere."""
    git, here = shutil.which("git"), Path(semantic_trio.__file__).parent
    if git is None or _run(git, "-C", str(here), "ls-files", "--error-unmatch", "__init__.py") is None:
        return ""  # installed: the repository around it, if there is one, is another project's
    return _run(git, "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*") or ""


def _processor() -> str:
    """The name of the processor where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _run(*command: str) -> str | None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
