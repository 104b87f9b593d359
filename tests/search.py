"""How far searches for counterexamples go: all the way at night, a part of the way in `make test`."""

import os

# The nightly run draws other examples each time. `make test` draws the same ones each time: many of them would mostly repeat what they said before.
IS_NIGHTLY = "NIGHTLY" in os.environ


def examples(nightly: int, share: int = 10) -> int:
    """Number of examples of a search: all in the nightly run, one of `share` in others."""
    return nightly if IS_NIGHTLY else max(nightly // share, 1)
