"""What integration tests share: the real models.

MLX is used on the device's thread only (`tests.device`).
"""

from pathlib import Path

from tests.device import on_device  # first: it loads the BLAS

import pytest  # isort: skip

from semantic_trio.adapters.catalogue.catalogue import Catalogue, open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.catalogue.wheel import DownloadFailedError
from semantic_trio.adapters.mlx.loading import LoadedModel, load
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.entrypoints import settings_loading
from tests.integration import gemma


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    """The catalogue of whoever runs the tests, so that nothing is downloaded twice."""
    return open_catalogue(settings_loading.load({}).settings.data_dir)


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


@pytest.fixture(scope="session")
def gemma3_path() -> Path:
    """A real model with sliding and global layers, converted once for whoever runs the tests."""
    try:
        return gemma.gemma3_270m(Lines())
    except ModelNotFoundError as error:
        if isinstance(error.__cause__, DownloadFailedError):
            pytest.skip(f"Gemma 3 270M cannot be fetched: {error}")
        raise


@pytest.fixture(scope="session")
def gemma3(gemma3_path: Path) -> LoadedModel:
    """That model on the device."""
    return on_device(lambda: load(gemma3_path))


@pytest.fixture(scope="session")
def gemma3_codec(gemma3_path: Path) -> TokenizerCodec:
    """Its tokenizer; it was not made for conversations and has no template."""
    return load_codec(gemma3_path)
