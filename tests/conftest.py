"""What all tests share: the BLAS before MLX, chance that repeats, and the mark of each test's tier,
given by its directory.
"""

import gc
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import semantic_trio.adapters.mlx  # noqa: F401 - loads the BLAS before any test imports MLX
from tests.search import IS_NIGHTLY

TIERS = {
    "unit": "unit",
    "http": "unit",
    "contract": "integration",
    "integration": "integration",
    "smoke": "smoke",
    "e2e": "e2e",
}
HERE = Path(__file__).parent

# One run is like another, for the gates look at what is covered. The nightly one looks for what no
# run has seen.
settings.register_profile(
    "repeatable",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
if not IS_NIGHTLY:
    settings.load_profile("repeatable")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--first-cases",
        action="store_true",
        help="of each test with parameters only the first case, but in the nightly run",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Have no search for garbage look through what is collected, which stays to the end."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> Generator[None, None, None]:
    """Mark what was collected, so that `-m unit` and the like select it; where tests run in
    parallel, begin with the longest ones.
    """
    for item in items:
        tier = (
            TIERS.get(item.path.relative_to(HERE).parts[0])
            if item.path.is_relative_to(HERE)
            else None
        )
        if tier is not None:
            item.add_marker(tier)
    yield  # options select
    if config.getoption("--first-cases") and not IS_NIGHTLY:
        chosen = set({item.nodeid.split("[")[0]: item for item in reversed(items)}.values())
        config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
        items[:] = [item for item in items if item in chosen]
    if all(
        item.get_closest_marker("unit") or item.get_closest_marker("integration") for item in items
    ):
        items.sort(key=_seconds, reverse=True)


def _seconds(item: pytest.Item) -> float:
    """The time a test says it may need; 0 where it says nothing."""
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker is not None else 0.0
