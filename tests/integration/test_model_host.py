"""Real models in one server: opened, closed with their memory on disk, and what they leave on the
device.
"""

import shutil
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from tests.device import shared_device  # first: it loads the BLAS

import attrs  # isort: skip
import mlx.core as mx
import pytest
import trio

from semantic_trio.adapters.http.serving.app_state import BatchWindow
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.adapters.metrics import Metrics
from semantic_trio.application.model_entry import ModelClose
from semantic_trio.application.models import ModelRegistry
from semantic_trio.application.observers import Observers
from semantic_trio.domain.errors import (
    InvalidRequestError,
    ModelNotFoundError,
    ModelSwapError,
    SemanticError,
)
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.geometry import BLOCK_TOKENS
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.domain.reuse import NOTHING_REUSED, Reuse, ReuseSource
from semantic_trio.entrypoints.model_host import ModelHost
from semantic_trio.entrypoints.model_tables import Tables
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.testing import FakeOpener

# More than two blocks, and a part of one.
PROMPT = tuple(range(10, 610))
# Bytes that a closed model may leave: keys of random numbers, constants of compiled kernels.
LEFT_BYTES = 1 << 20


@pytest.fixture
def directories(tiny_random_path: Path, tmp_path: Path) -> dict[str, Path]:
    """The same weights under other configurations, so that they are other models; one is damaged,
    and one has no tokenizer.
    """
    directories = {"one": tiny_random_path, "same": tiny_random_path}
    for name in ("two", "damaged", "mute"):
        directories[name] = tmp_path / name
        shutil.copytree(tiny_random_path, directories[name])
        config = directories[name] / "config.json"
        config.write_text(f"{config.read_text()} ")
    for weights in directories["damaged"].glob("*.safetensors"):
        weights.write_bytes(weights.read_bytes()[:1000])
    for file in directories["mute"].glob("tokenizer*"):
        file.unlink()
    return directories


def host_of(
    directories: dict[str, Path],
    cache_dir: Path,
    block_tokens: int = BLOCK_TOKENS,
    tables: Tables | None = None,
) -> ModelHost:
    """The opener of a server, of these models."""

    def directory(name: str) -> Path:
        if name not in directories:
            raise ModelNotFoundError(name, "not on this machine")
        return directories[name]

    return ModelHost(
        Settings(
            cache_dir=cache_dir,
            cache_budget_mb=64,
            disk_floor_mb=0,
            shutdown_timeout_seconds=60,
            block_tokens=block_tokens,
        ),
        shared_device(),
        directory,
        Metrics(),
        BatchWindow(0.001),
        has_disk=True,
        claim_disk=lambda: None,
        scripted=lambda codec, fingerprint: None,
        observer=Observers(),
        engine_died=trio.Event,
        tables=tables or {},
    )


@asynccontextmanager
async def serving(
    directories: dict[str, Path],
    cache_dir: Path,
    block_tokens: int = BLOCK_TOKENS,
    tables: Tables | None = None,
) -> AsyncIterator[ModelRegistry[ServedModel]]:
    """A registry of these models, none of them open."""
    host = host_of(directories, cache_dir, block_tokens, tables)
    registry: ModelRegistry[ServedModel] = ModelRegistry(
        host, ModelNames("one", ("two", "same", "damaged", "mute"))
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(registry.run)
        yield registry
        await registry.drain(10)
        await registry.close(trio.current_time() + 60)
        nursery.cancel_scope.cancel()


async def generate(
    registry: ModelRegistry[ServedModel], name: str
) -> tuple[tuple[int, ...], Reuse]:
    """Generate a few tokens after the prompt, for an agent. Returns them, and what was reused."""
    with ExitStack() as stack:
        model = await registry.acquire(name, stack)
        request = GenerationRequest("r", PROMPT, 4, seed=1, agent="ada")
        generation = model.engine.submit(request, model.codec.decoder())
        result = await generation.result()
        generation.close()
        return result.tokens, generation.reuse or NOTHING_REUSED


async def test_after_a_swap_there_and_back_an_agent_computes_one_token(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    async with serving(directories, tmp_path / "cache") as registry:
        first, new = await generate(registry, "one")
        await registry.swap("two")
        other, unknown = await generate(registry, "default")
        await registry.swap("one")
        again, found = await generate(registry, "default")

    assert (new.tokens, unknown.tokens) == (0, 0)
    assert (found.source, found.tokens) == (ReuseSource.DISK, len(PROMPT) - 1)
    assert first == again == other, "the weights are the same"


async def test_a_directory_with_blocks_of_another_size_is_not_read(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    """One directory holds the memory of both, and each server finds its own again.

    Whole blocks are reused for certain. Whether the partial block at the end is read or computed
    depends on what a disk and a pass take.
    """
    found: list[tuple[ReuseSource, int]] = []
    answers = set()
    for block_tokens in (64, 256, 64, 256):
        async with serving(directories, tmp_path / "cache", block_tokens) as registry:
            tokens, reuse = await generate(registry, "one")
        answers.add(tokens)
        found.append((reuse.source, reuse.tokens))

    assert [tokens for _, tokens in found[:2]] == [0, 0]
    assert all(tokens >= len(PROMPT) // 256 * 256 for _, tokens in found[2:])
    assert [source for source, _ in found[2:]] == [ReuseSource.DISK, ReuseSource.DISK]
    assert len(answers) == 1


async def test_two_models_answer_from_one_device(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    async with serving(directories, tmp_path / "cache") as registry:
        answers = list[tuple[int, ...]]()

        async def ask(name: str) -> None:
            answers.append((await generate(registry, name))[0])

        async with trio.open_nursery() as nursery:
            for name in ("one", "two"):
                nursery.start_soon(ask, name)
        states = [entry.state.value for entry in registry.models.entries]

    assert answers[0] == answers[1]
    assert states == ["ready", "ready", "absent", "absent", "absent"]


async def test_a_closed_model_leaves_no_memory_on_the_device(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    """Neither is one left until the next one is closed."""
    async with serving(directories, tmp_path / "cache") as registry:
        loaded, closed = list[int](), list[int]()
        for _ in range(3):
            await generate(registry, "one")
            loaded.append(mx.get_active_memory())
            await registry.unload("one")
            closed.append(mx.get_active_memory())

    # what earlier tests have left goes with the first, and kernels that are compiled then stay
    assert loaded[1] > closed[0] + LEFT_BYTES
    assert loaded[2] > closed[1] + LEFT_BYTES
    weights = loaded[1] - closed[0]
    assert loaded[0] - closed[0] > weights - LEFT_BYTES
    assert max(closed) < min(closed) + LEFT_BYTES


async def test_a_model_that_cannot_be_loaded_leaves_the_one_that_answers(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    async with serving(directories, tmp_path / "cache") as registry:
        first, _ = await generate(registry, "one")
        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            await generate(registry, "damaged")
        with pytest.raises(ModelNotFoundError, match="it is the model that is open as one"):
            await generate(registry, "same")
        with pytest.raises(ModelNotFoundError, match="cannot be loaded"):
            await registry.swap("damaged")
        with pytest.raises(ModelSwapError) as failed:
            await registry.swap("mute")
        again, reuse = await generate(registry, "default")

    assert failed.value.is_previous_back
    assert attrs.asdict(failed.value)["previous"] == "one"
    assert (again, reuse.source) == (first, ReuseSource.DISK)


async def test_a_model_is_loaded_with_the_settings_of_its_table(
    directories: dict[str, Path], tmp_path: Path
) -> None:
    """The heads of these models are too small for 8 bits."""
    tables = {"one": {"kv_bits": 8}, "two": {"context_length": 512, "cache_budget_mb": 32}}
    async with serving(directories, tmp_path / "cache", tables=tables) as registry:
        needed = [await registry.opener.needed_bytes(name) for name in ("one", "two")]
        with pytest.raises(InvalidRequestError, match="kv_bits: 8 bits are for"):
            await registry.load("one")
        await registry.load("two")
        [two] = registry.models.residents

        assert two.card.context_length == 512
        assert needed[0] - needed[1] == 32 << 20
        assert two.bytes - two.card.weight_bytes <= 32 << 20


@pytest.fixture(params=["fake", "real"])
def opener(
    request: pytest.FixtureRequest, directories: dict[str, Path], tmp_path: Path
) -> FakeOpener | ModelHost:
    """An opener that tests of the registry use, and that of a server: both keep the contract of
    `ModelOpener`.
    """
    if request.param == "fake":
        return FakeOpener(
            {"one": 1 << 20, "damaged": 1 << 20},
            open_seconds=0,
            close_seconds=0,
            failing={"damaged"},
        )
    return host_of(directories, tmp_path / "cache")


async def test_an_opener_reports_a_model_and_serves_it_until_it_is_told_to_close(
    opener: FakeOpener | ModelHost,
) -> None:
    closing = ModelClose()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            model = await nursery.start(opener.serve, "one", closing)
            needed = await opener.needed_bytes("one")
            is_serving = bool(nursery.child_tasks)
            closing.begin(trio.current_time() + 30)

    assert is_serving
    assert model.card.id == "one"
    assert needed > 0
    assert model.bytes > 0


async def test_an_opener_knows_no_bytes_of_a_model_that_is_not_there(
    opener: FakeOpener | ModelHost,
) -> None:
    with pytest.raises(ModelNotFoundError):
        await opener.needed_bytes("nowhere")


@pytest.mark.parametrize("name", ["nowhere", "damaged"])
async def test_an_opener_raises_before_it_reports_a_model_that_cannot_be_opened(
    opener: FakeOpener | ModelHost, name: str
) -> None:
    async with trio.open_nursery() as nursery:
        with pytest.raises(Exception) as failed:  # noqa: PT011 - alone or in a group
            await nursery.start(opener.serve, name, ModelClose())

    error: BaseException = failed.value
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SemanticError)
