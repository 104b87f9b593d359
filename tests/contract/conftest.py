"""The same claims about the fake runner and the real one, on tiny models of several families."""

import pytest

from semantic_trio.ports import ModelRunner
from semantic_trio.testing import FakeRunner
from tests.contract.models import FAMILIES, random_runner


@pytest.fixture(params=["fake", *FAMILIES])
def runner(request: pytest.FixtureRequest) -> ModelRunner:
    """A runner with nothing open."""
    return FakeRunner() if request.param == "fake" else random_runner(request.param)
