"""How far searches for counterexamples go: all the way at night, a part of the way in `make
test`.
"""

import os
from collections.abc import Collection, Iterable
from typing import TypeVar

# The nightly run draws other examples each time. `make test` draws the same ones each time: many of
# them would mostly repeat what they said before.
IS_NIGHTLY = "NIGHTLY" in os.environ


T = TypeVar("T")


def examples(nightly: int, share: int = 10) -> int:
    """Number of examples of a search: all in the nightly run, one of `share` in others."""
    return nightly if IS_NIGHTLY else max(nightly // share, 1)


def sample(cases: Iterable[T], alike: Collection[T]) -> list[T]:
    """All cases in the nightly run; in others those that are not `alike`: another case has the same
    kinds of what the tests are about.
    """
    return [case for case in cases if IS_NIGHTLY or case not in alike]
