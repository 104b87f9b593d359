"""What integration tests share: the real models. MLX is used on the device's thread only (`tests.device`)."""

from pathlib import Path

from tests.device import on_device  # first: it loads the BLAS

import pytest  # isort: skip

from semantic_trio.adapters.catalogue.catalogue import Catalogue, open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.mlx.loading import LoadedModel, load
from semantic_trio.adapters.text.codec import TokenizerCodec, load_codec
from semantic_trio.entrypoints import settings


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The catalogue of whoever runs the tests, so that nothing is downloaded twice."""
    return open_catalogue(settings.load({}).settings.data_dir)


@pytest.fixture(scope="session")
def smollm2_path(catalogue: Catalogue) -> Path:
    """The embedded default model, pulled once."""
    return catalogue.ensure("smollm2-135m", Lines())


@pytest.fixture(scope="session")
def tiny_random_path(catalogue: Catalogue) -> Path:
    """The tiny random model."""
    return catalogue.ensure("tiny-random", Lines())


@pytest.fixture(scope="session")
def smollm2(smollm2_path: Path) -> LoadedModel:
    """The embedded default model on the device."""
    return on_device(lambda: load(smollm2_path))


@pytest.fixture(scope="session")
def smollm2_codec(smollm2_path: Path) -> TokenizerCodec:
    """Its tokenizer and template."""
    return load_codec(smollm2_path)
