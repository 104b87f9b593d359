"""Whatever is demanded, real models answer in that form: alone, and beside others of whom it is not
demanded.
"""

from pathlib import Path

import pytest

from semantic_trio.adapters.mlx.loading import LoadedModel, load
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.adapters.text.loading import load_codec
from tests.device import on_device
from tests.forms import forms, some_schemas, verdicts
from tests.search import IS_NIGHTLY, sample

pytestmark = pytest.mark.exhaustive


@pytest.fixture(scope="session")
def tiny_random(tiny_random_path: Path) -> LoadedModel:
    return on_device(lambda: load(tiny_random_path))


@pytest.fixture(scope="session")
def tiny_random_codec(tiny_random_path: Path) -> TokenizerCodec:
    return load_codec(tiny_random_path)


@pytest.mark.timeout(1200)
async def test_random_weights_answer_schemas(
    tiny_random: LoadedModel, tiny_random_codec: TokenizerCodec
) -> None:
    schemas = some_schemas(200)[:: 1 if IS_NIGHTLY else 4]
    async with forms(tiny_random, tiny_random_codec) as bench:
        found = verdicts(schemas, await bench.ask_all(schemas))

    assert found["invalid"] == 0
    assert found["valid"] >= 0.95 * len(schemas), found


@pytest.mark.timeout(1200)
async def test_smollm2_answers_schemas(smollm2: LoadedModel, smollm2_codec: TokenizerCodec) -> None:
    """A sample: `make test-e2e` has all 200."""
    schemas = some_schemas(200)[:: 8 if IS_NIGHTLY else 16]
    async with forms(smollm2, smollm2_codec) as bench:
        found = verdicts(schemas, await bench.ask_all(schemas))

    assert found["invalid"] == 0
    assert found["valid"] >= 0.95 * len(schemas), found


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", sample(["smollm2", "tiny_random"], ("smollm2",)))
async def test_a_batch_of_all_kinds_says_what_each_says_alone(
    request: pytest.FixtureRequest, name: str
) -> None:
    asked = [None if place % 2 else schema for place, schema in enumerate(some_schemas(60)[-8:])]

    async with forms(
        request.getfixturevalue(name), request.getfixturevalue(f"{name}_codec")
    ) as bench:
        together = await bench.ask_all(asked, max_tokens=12)
        alone = [
            await bench.ask(schema, place, max_tokens=12) for place, schema in enumerate(asked)
        ]

    assert [one.tokens for one in together] == [one.tokens for one in alone]


async def test_without_the_grammar_the_same_answers_would_be_none(
    tiny_random: LoadedModel, tiny_random_codec: TokenizerCodec
) -> None:
    """The sabotage: what is claimed above is the grammar's doing."""
    schemas = some_schemas(20)
    async with forms(tiny_random, tiny_random_codec) as bench:
        found = verdicts(schemas, await bench.ask_all([None] * len(schemas), max_tokens=60))

    assert found["valid"] < 0.05 * len(schemas)
