"""What live rows begin with."""

from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.testing import ATTENTION_ONLY

RECURRENT_ALONE = ModelCacheSpec(
    "recurrent",
    (LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=100),),
    block_tokens=16,
    row_slack_tokens=32,
)
PROMPT = tuple(range(40))


def closed(spec: ModelCacheSpec, name: str = "a") -> Memory:
    """A memory in which a row has read a prompt and closed."""
    memory = Memory(spec, budget_bytes=1 << 20, chunk_tokens=16)
    run = memory.run(PROMPT)
    memory.rows.open(0, run, memory.get_or_create(name), memory.match(run))
    memory.rows.publish(0, len(run))
    memory.rows.remember(0, run)
    memory.rows.close(0, len(run))
    return memory


def test_a_row_of_a_model_without_attention_begins_with_a_snapshot_alone() -> None:
    memory = closed(RECURRENT_ALONE)
    run = memory.run((*PROMPT, 7))

    restore = memory.rows.open(1, run, memory.get_or_create("a"), memory.match(run))

    assert restore is not None
    assert (restore.length, restore.pieces) == (40, ())
    assert restore.snapshot is not None
    memory.audit()


def test_a_row_takes_over_the_partial_block_of_its_own_agent_alone() -> None:
    last_uses = []
    for name in ("a", "b"):
        memory = closed(ATTENTION_ONLY)
        run = memory.run((*PROMPT, 7))
        restore = memory.rows.open(1, run, memory.get_or_create(name), memory.match(run))
        assert restore is not None
        last_uses.append(restore.pieces[-1].is_last_use)
        memory.audit()

    assert last_uses == [True, False]


def test_what_a_row_restores_is_not_dropped_in_the_same_step() -> None:
    memory = closed(ATTENTION_ONLY)
    memory.take_drops()
    run = memory.run((*PROMPT, 7))
    match = memory.match(run)

    memory.rows.open(1, run, memory.get_or_create("b"), match)
    memory.store.evict_all()
    same_step, next_step = memory.take_drops(), memory.take_drops()

    assert (same_step[0], len(next_step[0])) == ((), 1), (
        "the partial block is read in this step, and dropped in the next"
    )
