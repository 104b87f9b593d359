"""Memory that was on disk changes nothing: the whole engine on real models and real files, against
a run that remembers nothing.
"""

import functools
import io
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from semantic_trio.adapters.disk import ModelFiles
from semantic_trio.adapters.mlx.runner import MlxRunner
from semantic_trio.application.archives import Archives
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.domain.content import POSITION, Content, Kind, Tensor
from semantic_trio.domain.generation import GenerationRequest, SamplingParams
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.reuse import MissCause, Reuse, ReuseSource
from semantic_trio.domain.salt import NO_SALT
from semantic_trio.testing import ByteDecoder
from tests.contract.conftest import ALIKE
from tests.contract.models import random_runner
from tests.contract.test_engine_memory import FAMILIES, FORCED, close, prompt
from tests.engines import ROOMY, UNBOUND_LIMITS, new_engine, running
from tests.search import sample

pytestmark = pytest.mark.exhaustive

DISK = 1 << 30  # bytes of the disk tier
HISTORY = 600
NEXT = (*prompt(HISTORY), *FORCED, *prompt(10, salt=9))  # what a client sends after its first turn


@attrs.define(eq=False)
class Server:
    """A process, as far as memory goes."""

    engine: Engine
    persistence: Persistence

    async def turn(
        self, tokens: tuple[int, ...], agent: str | None = None
    ) -> tuple[tuple[float, ...], Reuse]:
        """Scores of a known continuation, and what was reused."""
        known = self.engine.memory.agents.find(agent) if agent else None
        salt = known.salt if known else NO_SALT
        request = GenerationRequest(
            "r",
            tokens,
            len(FORCED),
            1,
            SamplingParams(),
            forced=FORCED,
            salt=salt,
            agent=agent,
            boundaries=(100,),
        )
        result = await self.engine.submit(request, ByteDecoder()).result()
        return result.logprobs, result.finished.reuse

    async def settle(self) -> None:
        """Everything is on disk."""
        await self.engine.settle()
        assert await self.persistence.flush(30) == 0


@functools.cache
def runner_of(family: str) -> MlxRunner:
    return random_runner(family)


@asynccontextmanager
async def server(family: str, root: Path, budget: int = ROOMY) -> AsyncIterator[Server]:
    """One that begins with nothing but its weights and the directory."""
    runner = runner_of(family)
    await runner.reset()
    runner.batch.store.drop(runner.batch.store.blocks, runner.batch.store.snapshots)
    engine = new_engine(runner, UNBOUND_LIMITS, budget=budget, disk=DISK)
    persistence = Persistence(
        engine.memory, runner, ModelFiles(root, runner.spec.fingerprint, family), engine.nudge
    )
    async with running(engine), trio.open_nursery() as nursery:
        await persistence.open()
        await nursery.start(persistence.run)
        served = Server(engine, persistence)
        yield served
        await served.settle()
        nursery.cancel_scope.cancel()


_cold: dict[tuple[str, tuple[int, ...]], tuple[float, ...]] = {}  # by model and tokens


async def cold(family: str, tokens: tuple[int, ...], root: Path) -> tuple[float, ...]:
    """Scores of a server that has never read anything.

    They are computed once for all tests of a model.
    """
    if (family, tokens) not in _cold:
        async with server(family, root / "empty") as fresh:
            _cold[family, tokens], reuse = await fresh.turn(tokens)
        assert reuse.tokens == 0
    return _cold[family, tokens]


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_turn_after_a_restart_scores_as_if_nothing_was_remembered(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")

    assert reuse.source is ReuseSource.DISK
    assert reuse.tokens >= HISTORY + len(FORCED) - 1
    assert close(scores, expected)


@pytest.mark.parametrize("family", FAMILIES)
async def test_a_turn_after_eviction_to_disk_scores_the_same_beside_neighbours(
    family: str, tmp_path: Path
) -> None:
    """Three agents where RAM holds little more than two: each comes back from disk while another
    one decodes.
    """
    spec = runner_of(family).spec
    row, snapshot = (
        Memory(spec, ROOMY, 128).row_bytes(len(NEXT) + len(FORCED) + 1),
        spec.snapshot_bytes(HISTORY),
    )
    budget = max(int(row * 2.2), 16 * snapshot)  # snapshots get a quarter of it
    turns = {
        name: (*prompt(HISTORY, salt), *FORCED, *prompt(10, salt=9))
        for salt, name in enumerate("abc")
    }
    expected = {name: await cold(family, tokens, tmp_path / name) for name, tokens in turns.items()}
    found: dict[str, tuple[tuple[float, ...], Reuse]] = {}
    async with server(family, tmp_path, budget) as tight:
        for salt, name in enumerate("abc"):
            await tight.turn(prompt(HISTORY, salt), name)
            # the next turn may evict what is not on disk yet, and that is lost
            await tight.settle()
        tight.engine.memory.store.evict_all()

        async def ask(name: str) -> None:
            found[name] = await tight.turn(turns[name], name)

        async with trio.open_nursery() as nursery:
            for name in turns:
                nursery.start_soon(ask, name)

    assert ReuseSource.DISK in {reuse.source for _, reuse in found.values()}
    for name, (scores, reuse) in found.items():
        assert reuse.tokens >= HISTORY + len(FORCED) - 1, name
        assert close(scores, expected[name]), name


@pytest.mark.parametrize("family", ["llama", "falcon_h1"])
async def test_another_model_in_between_neither_uses_nor_harms_what_is_there(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
    async with server("qwen3", tmp_path) as other:
        _, reuse = await other.turn(NEXT, "a")
    assert (reuse.tokens, reuse.cause) == (0, MissCause.OTHER_MODEL)

    async with server(family, tmp_path) as again:
        scores, reuse = await again.turn(NEXT, "a")

    assert (reuse.source, reuse.tokens >= HISTORY) == (ReuseSource.DISK, True)
    assert close(scores, expected)


def zeroed(content: Content) -> Content:
    return {
        name: tensor if name == "position" else _zeros(tensor) for name, tensor in content.items()
    }


def _zeros(tensor: Tensor) -> Tensor:
    return attrs.evolve(tensor, data=memoryview(bytes(len(tensor.data))))


def swapped(content: Content) -> Content:
    """The first keys in the place of the last ones."""
    names = [
        name
        for name, tensor in content.items()
        if tensor.shape == next(iter(content.values())).shape
    ]
    return {**content, names[0]: content[names[-1]], names[-1]: content[names[0]]}


@pytest.mark.parametrize("spoil", [zeroed, swapped])
@pytest.mark.parametrize(
    "family", sample(["llama", "qwen2", "qwen3", "gemma3_text", "gpt_oss", "deepseek_v3"], ALIKE)
)
async def test_the_comparison_sees_a_block_whose_content_is_another(
    family: str, spoil: Callable[[Content], Content], tmp_path: Path
) -> None:
    """The sabotage of the tests above: written anew, so that its checksum is right."""
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
        await first.settle()
        files = first.persistence.files
        block = next(item for item, size in files.index().items() if item.kind is Kind.BLOCK)
        await trio.to_thread.run_sync(lambda: files.write(block, spoil(files.read(block))))

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")

    assert reuse.source is ReuseSource.DISK
    assert not close(scores, expected)


@pytest.mark.parametrize("family", ["gemma3_text", "gpt_oss", "falcon_h1", "qwen3_next"])
async def test_the_comparison_sees_snapshots_whose_content_is_another(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
        await first.settle()
        files = first.persistence.files
        for snapshot in [item for item in files.index() if item.kind is Kind.SNAPSHOT]:
            content = files.read(snapshot)
            noise = {name: tensor for name, tensor in content.items() if tensor.dtype == "F32"}
            files.write(snapshot, {**content, **zeroed(noise)})

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")

    assert reuse.source is ReuseSource.DISK
    assert not close(scores, expected)


def damage_every_file(root: Path) -> None:
    for file in [*root.glob("memory/*/blocks/*/*"), *root.glob("memory/*/marks/*/*")]:
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)


def reasons(root: Path) -> str:
    return "".join(file.read_text() for file in root.glob("quarantine/*.txt"))


@pytest.mark.parametrize("family", FAMILIES)
async def test_what_is_damaged_is_computed_again(family: str, tmp_path: Path) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
    damage_every_file(tmp_path)

    async with server(family, tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")

    assert (reuse.tokens, reuse.cause) == (0, MissCause.CORRUPT)
    assert close(scores, expected)
    assert "checksum" in reasons(tmp_path)


@pytest.mark.parametrize("family", FAMILIES)
async def test_an_agent_that_came_in_an_archive_scores_as_if_nothing_was_remembered(
    family: str, tmp_path: Path
) -> None:
    expected = await cold(family, NEXT, tmp_path)
    async with server(family, tmp_path / "here") as first:
        await first.turn(prompt(HISTORY), "a")
        archives = Archives(first.persistence)
        record = await archives.write_out(first.engine.memory.agents.get("a"), 30)
        sent = b"".join(first.persistence.files.archives.export_agent(record))

    async with server(family, tmp_path / "there") as second:
        await Archives(second.persistence).take_in(io.BytesIO(sent), "b")
        scores, reuse = await second.turn(NEXT, "b")

    assert reuse.source is ReuseSource.DISK
    assert reuse.tokens >= HISTORY + len(FORCED) - 1
    assert close(scores, expected)


async def test_an_archive_with_another_block_in_it_would_be_noticed(tmp_path: Path) -> None:
    """The sabotage of the claim above: a block's bytes under the name of another."""
    expected = await cold("llama", NEXT, tmp_path)
    async with server("llama", tmp_path / "here") as first:
        await first.turn(prompt(HISTORY), "a")
        record = await Archives(first.persistence).write_out(
            first.engine.memory.agents.get("a"), 30
        )
        files = first.persistence.files
        one, other, *_ = (
            block.item for block in first.engine.memory.chain(first.engine.memory.agents.get("a"))
        )
        swapped = files.read(other)
        files.remove(one)
        files.write(one, swapped)
        sent = b"".join(files.archives.export_agent(record))

    async with server("llama", tmp_path / "there") as second:
        await Archives(second.persistence).take_in(io.BytesIO(sent), "b")
        scores, reuse = await second.turn(NEXT, "b")

    assert reuse.tokens >= HISTORY
    assert not close(scores, expected)


async def test_a_snapshot_that_says_it_is_elsewhere_is_put_aside(tmp_path: Path) -> None:
    """Its file is whole and its arrays fit: only the position it was taken at tells."""
    expected = await cold("gemma3_text", NEXT, tmp_path)
    async with server("gemma3_text", tmp_path) as first:
        await first.turn(prompt(HISTORY), "a")
        await first.settle()
        files, agent = first.persistence.files, first.engine.memory.agents.get("a")
        for snapshot in first.engine.memory.snapshots_of(agent):
            content = files.read(snapshot.item)
            elsewhere = attrs.evolve(
                content[POSITION],
                data=memoryview(
                    (snapshot.position + 1).to_bytes(content[POSITION].data.nbytes, "little")
                ),
            )
            files.remove(snapshot.item)
            files.write(snapshot.item, {**content, POSITION: elsewhere})

    async with server("gemma3_text", tmp_path) as second:
        scores, reuse = await second.turn(NEXT, "a")
        assert second.persistence.traffic.damaged > 0

    assert reuse.tokens < HISTORY
    assert close(scores, expected)
