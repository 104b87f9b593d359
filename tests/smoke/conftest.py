"""Servers that several tests talk to."""

from collections.abc import Iterator

import pytest

from tests.process import ServerProcess, serving


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the embedded default model."""
    with serving(tmp_path_factory.mktemp("real"), model="smollm2-135m") as server:
        yield server


@pytest.fixture(scope="session")
def tiny_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the tiny random model."""
    with serving(tmp_path_factory.mktemp("tiny")) as server:
        yield server
