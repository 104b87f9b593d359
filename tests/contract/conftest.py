"""The same claims about the fake runner and the real one, on tiny models of several families."""

import functools
from collections.abc import Iterator

import pytest

from semantic_trio.adapters.scripted.runner import ScriptedRunner
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.ports.runner import ModelRunner
from semantic_trio.testing import FakeRunner
from tests.contract.memory import Memory
from tests.contract.models import FAMILIES, PAGED, VARIANTS, random_runner
from tests.postgres import Postgres, running
from tests.search import sample

GLOBAL = LayerGroup(LayerKind.GLOBAL, layers=2, token_bytes=8)
SLIDING = LayerGroup(LayerKind.SLIDING, layers=2, token_bytes=8, window=32)
RECURRENT = LayerGroup(LayerKind.RECURRENT, layers=2, state_bytes=64)
FAKES = {
    "fake": (GLOBAL,),
    "fake_sliding": (GLOBAL, SLIDING),
    "fake_hybrid": (GLOBAL, RECURRENT),
    "fake_recurrent": (RECURRENT,),
}
SCRIPTED = "scripted"

# To the memory qwen2 and qwen3 are what llama is: all layers global. Its windows are those of
# gemma3_text and gpt_oss_128, and its pages those of llama_paged and gpt_oss_paged.
ALIKE = ("qwen2", "qwen3", "gpt_oss", "gemma3_paged")
EVERYBODY = sample([*FAKES, SCRIPTED, *FAMILIES, *VARIANTS, *PAGED], ALIKE)
WITHOUT_BLOCKS = ["fake_recurrent", "mamba2"]
BLOCKS_ALONE = sample(
    [
        "fake",
        SCRIPTED,
        "llama",
        "qwen2",
        "qwen3",
        "deepseek_v3",
        "llama_paged",
        "deepseek_v3_paged",
    ],
    ALIKE,
)
# A fault shows by the kind of layers that it is in: windows in gemma3_text, states beside attention
# in qwen3_next, blocks alone in llama, pages in llama_paged.
FAULTY_ALIKE = ("gpt_oss_128", "falcon_h1", "deepseek_v3", "gpt_oss_paged", "deepseek_v3_paged")
WITH_BLOCKS = sample([name for name in EVERYBODY if name not in WITHOUT_BLOCKS], FAULTY_ALIKE)
WITH_SNAPSHOTS = sample([name for name in EVERYBODY if name not in BLOCKS_ALONE], FAULTY_ALIKE)

with_blocks = pytest.mark.parametrize("memory", WITH_BLOCKS, indirect=True)
with_snapshots = pytest.mark.parametrize("memory", WITH_SNAPSHOTS, indirect=True)
blocks_alone = pytest.mark.parametrize("memory", BLOCKS_ALONE, indirect=True)


# qwen3 has norms before its attention that llama has not
@pytest.fixture(params=sample(["fake", *FAMILIES, *PAGED], ("qwen2", "gemma3_paged")))
async def runner(request: pytest.FixtureRequest) -> ModelRunner:
    """A runner with nothing open."""
    if request.param == "fake":
        return FakeRunner()
    runner = lasting(request.param)
    await Memory(runner).forget_everything()
    return runner


def fresh(family: str) -> ModelRunner:
    """A runner nobody has used."""
    if family == SCRIPTED:
        return ScriptedRunner(
            script=(),
            encode=lambda text: [*map(ord, text)],
            decode=lambda tokens: "".join(map(chr, tokens)),
        )
    return (
        FakeRunner(spec=ModelCacheSpec.of(family, FAKES[family]))
        if family in FAKES
        else random_runner(family)
    )


@functools.cache
def lasting(family: str) -> ModelRunner:
    """A runner that several tests use, one after the other."""
    return fresh(family)


@pytest.fixture(params=EVERYBODY)
async def memory(request: pytest.FixtureRequest) -> Memory:
    """A script for a runner that holds nothing."""
    script = Memory(lasting(request.param))
    await script.forget_everything()
    return script


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL server of the test run's own."""
    with running() as server:
        yield server
