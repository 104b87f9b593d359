"""Rules that find the route of a path.

Knows nothing of the way back: no part of this server makes a path from the name of a route.
"""

from collections.abc import Callable
from typing import Never

from quart.routing import QuartRule


class MatchingRule(QuartRule):
    """A rule without the two functions that Werkzeug compiles to make paths from names.

    Compiling them for all routes took three quarters of the time that an application took to make.
    With a Werkzeug that names their compilation otherwise they are compiled, and nothing else is
    different.
    """

    def _compile_builder(
        self,
        append_unknown: bool = True,
    ) -> Callable[..., tuple[str, str]]:
        return _makes_no_path


def _makes_no_path(rule: MatchingRule, **values: object) -> Never:
    """Raise: a path was asked of a route's name (`url_for`)."""
    raise NotImplementedError(f"no path is made from the name of {rule.rule}, here of {values}")
