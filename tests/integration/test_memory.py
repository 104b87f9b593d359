"""Reuse on real models: greedy text is what it is without a memory."""

import pytest

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.geometry import measure_spec
from semantic_trio.adapters.mlx.loading import LoadedModel
from semantic_trio.adapters.mlx.runner import DeviceRows, MlxRunner
from semantic_trio.adapters.text.codec import TokenizerCodec
from semantic_trio.domain.generation import GenerationRequest
from tests.device import on_device, shared_device
from tests.engines import UNBOUND_LIMITS, new_engine, running

pytestmark = pytest.mark.exhaustive

STORY = (
    "The river ran down from the hills and through the town, where people had built their houses "
    "along its banks. "
)


def runner_of(loaded: LoadedModel) -> MlxRunner:
    layout, spec = on_device(
        lambda: (choose_layout(loaded.model), measure_spec(loaded.model, loaded.fingerprint))
    )
    return MlxRunner(shared_device(), DeviceRows(layout), spec)


@pytest.mark.timeout(1200)  # the model may have to be fetched and converted first
@pytest.mark.parametrize("name", ["smollm2", "gemma3"])
async def test_greedy_text_is_the_same_warm_shared_and_cold(
    name: str, request: pytest.FixtureRequest
) -> None:
    loaded: LoadedModel = request.getfixturevalue(name)
    codec: TokenizerCodec = request.getfixturevalue(f"{name}_codec")
    engine = new_engine(runner_of(loaded), UNBOUND_LIMITS)
    head = codec.encode_text(STORY * 3 + "\n")
    prompts = [
        head + codec.encode_text(end)[-3:] for end in ("In spring the water", "Then one winter the")
    ]

    async def say(prompt: tuple[int, ...]) -> tuple[tuple[int, ...], int]:
        asked = GenerationRequest("r", prompt, 6, seed=1, boundaries=(len(head),))
        result = await engine.submit(asked, codec.decoder()).result()
        return result.tokens, result.finished.reuse.tokens

    async with running(engine):
        cold = []
        for prompt in prompts:
            engine.memory.store.evict_all()
            cold.append(await say(prompt))
        engine.memory.store.evict_all()
        await say(prompts[0])
        shared, again = await say(prompts[1]), await say(prompts[0])

    assert [reused for _, reused in cold] == [0, 0]
    assert shared == (cold[1][0], len(head))
    assert again == (cold[0][0], len(prompts[0]) - 1)
