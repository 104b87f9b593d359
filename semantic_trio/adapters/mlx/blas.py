"""The linear algebra library MLX computes with on a Linux CPU.

Imports no MLX: it has to come first.

MLX's CPU wheels bundle a reference BLAS, some sixty times slower than OpenBLAS. The dynamic linker
takes the first definition of a symbol it meets, so OpenBLAS, loaded globally before MLX, takes its
place.
"""

import ctypes
import ctypes.util
import functools
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import attrs

CURE = (
    "apt-get install libopenblas0-pthread (other systems: their OpenBLAS package, or pip install "
    "cmeel-openblas)"
)
# Debian keeps variants side by side and its libopenblas.so.0 may be any of them: the one with
# threads of its own first.
DEBIAN = "/usr/lib"
DEBIAN_PATTERNS = ("*/openblas-pthread/libopenblas.so.0", "*/openblas-openmp/libopenblas.so.0")
# Fedora names its threaded builds with a letter; the name without one is serial there.
NAMES = ("openblasp", "openblaso", "openblas")
CMEEL_FILE = "cmeel.prefix/lib/libopenblas.so"
# One of the functions MLX multiplies matrices with; a library without it is a stub or only half of
# a BLAS.
SYMBOL = "cblas_sgemm"


@attrs.frozen
class BlasReport:
    """The library that MLX will multiply matrices with."""

    library: str  # empty where OpenBLAS was not found or is not needed
    needed: bool  # whether the platform profits from one

    @property
    def cure(self) -> str:
        """The command that helps, empty where nothing is wrong."""
        return CURE if self.needed and not self.library else ""

    def __str__(self) -> str:
        """One line for people."""
        if not self.needed:
            return "the platform's own"
        return (
            self.library
            or f"no OpenBLAS found: MLX is about sixty times slower on this CPU; cure: {self.cure}"
        )


@functools.cache
def load_openblas() -> BlasReport:
    """Put OpenBLAS before MLX on Linux; elsewhere there is nothing to do.

    Later calls return the first one's report.

    On a host with a GPU the library is loaded too, and does no harm. The first call has to precede
    the first import of `mlx.core`.
    """
    assert "mlx.core" not in sys.modules, "OpenBLAS has to be loaded before mlx.core is imported"
    if sys.platform != "linux":
        return BlasReport("", needed=False)
    loaded = (library for library in _candidates() if _load(library))
    return BlasReport(next(loaded, ""), needed=True)


def _candidates() -> Iterator[str]:
    """Paths and names to try, the likeliest first."""
    for pattern in DEBIAN_PATTERNS:
        yield from map(str, sorted(Path(DEBIAN).glob(pattern)))
    for name in NAMES:
        if (found := ctypes.util.find_library(name)) is not None:
            yield found
    for place in _site_packages():
        if (place / CMEEL_FILE).is_file():
            yield str(place / CMEEL_FILE)


def _site_packages() -> Iterator[Path]:
    """Directory of this environment's packages, found by one that is always there."""
    spec = importlib.util.find_spec("attrs")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent.parent


def _load(library: str) -> bool:
    """Load a library.

    Returns True if it could be loaded and is a whole BLAS; one that could not leaves nothing
    behind.
    """
    try:
        return hasattr(ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL), SYMBOL)
    except OSError:
        return False
