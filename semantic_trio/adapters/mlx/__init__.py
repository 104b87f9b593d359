"""MLX: the only package that imports it, and everything in it runs on one thread.

Importing the package loads the BLAS, so that nothing in it can import MLX before: the linker takes
what comes first.
"""

from semantic_trio.adapters.mlx.blas import load_openblas

BLAS = load_openblas()
