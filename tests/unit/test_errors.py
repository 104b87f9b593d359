"""Errors by the names that programs which import the package rely on."""

import attrs
import pytest

from semantic_trio.domain import errors

NAMES = (
    "AgentNotFoundError",
    "PoolExhaustedError",
    "CacheCorruptionError",
    "CachePersistenceError",
    "IncompatibleCacheError",
    "ModelNotFoundError",
    "ModelSwapError",
    "InvalidRequestError",
    "OverloadedError",
)


@pytest.mark.parametrize("name", NAMES)
def test_an_error_of_this_name_carries_what_it_says(name: str) -> None:
    error = getattr(errors, name)

    assert issubclass(error, errors.SemanticError)
    assert attrs.fields(error), "an error has its numbers as fields"
