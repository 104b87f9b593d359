"""200 schemas on a model that speaks: integration tests have a sample of them."""

import pytest

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.text.loading import load_codec
from semantic_trio.entrypoints import settings_loading
from tests.device import on_device  # before what imports MLX: it loads the BLAS
from tests.forms import forms, some_schemas, verdicts

from semantic_trio.adapters.mlx.loading import load  # isort: skip


@pytest.mark.timeout(900)
async def test_smollm2_answers_200_schemas() -> None:
    path = open_catalogue(settings_loading.load({}).settings.data_dir).ensure(
        "smollm2-135m", Lines()
    )
    schemas = some_schemas(200)
    async with forms(on_device(lambda: load(path)), load_codec(path)) as bench:
        found = verdicts(schemas, await bench.ask_all(schemas))

    assert found["invalid"] == 0
    assert found["valid"] >= 0.95 * len(schemas), found
