"""Rows that decode together compute what the model computes alone: recurrent layers, latent
attention, shared keys and values.
"""

import mlx.core as mx
import pytest

from semantic_trio.adapters.mlx.choosing import choose_layout
from semantic_trio.adapters.mlx.decoding import DecodingLayout
from semantic_trio.adapters.mlx.kv import InTurnLayout, RaggedLayout, RowSpan
from semantic_trio.adapters.mlx.stacked_states import StackedStates, states_of
from semantic_trio.domain.step import Decode, RowClose, SaveSnapshot, StepPlan
from tests.contract.architectures import forced_logits, largest_difference, tiny_model, tiny_runner
from tests.contract.memory import FORCED, Memory, blocks, snapshot_key
from tests.contract.script import close, logprobs, prompt
from tests.device import on_device
from tests.search import sample

# Their layers are of the kinds that qwen3_5, nemotron_h, deepseek_v3 and gemma4_text have.
ALIKE = ("qwen3_5_moe", "granitemoehybrid", "olmo_hybrid", "mistral4", "gemma3n")
RECURRENT = [
    "qwen3_5",
    "qwen3_5_moe",
    "nemotron_h",
    "lfm2",
    "granitemoehybrid",
    "olmo_hybrid",
    "kimi_linear",
    "falcon_h1",
    "recurrent_gemma",
    "rwkv7",
]
LATENT, SHARED = ["deepseek_v3", "mistral4", "longcat_flash"], ["gemma3n", "gemma4_text"]


def difference(name: str) -> float:
    """How far the layout that is chosen for a type is from the model alone."""
    model = tiny_model(name)
    layout = choose_layout(model)
    assert isinstance(layout, RaggedLayout if name in SHARED else DecodingLayout), layout.name
    return largest_difference(forced_logits(layout), forced_logits(InTurnLayout(model)))


@pytest.mark.parametrize("name", sample([*RECURRENT, *LATENT, *SHARED], ALIKE))
def test_rows_that_join_decode_and_leave_compute_what_the_model_computes_alone(name: str) -> None:
    assert on_device(lambda: difference(name)) < 1e-4


@pytest.mark.parametrize("name", sample([*RECURRENT, *LATENT, *SHARED], ALIKE))
async def test_snapshots_of_rows_that_decode_together_serve_rows_of_their_beginning(
    name: str,
) -> None:
    """One taken while both rows decode, one by the plan that closes a row, and one of a prompt's
    end.
    """
    memory = Memory(tiny_runner(name))
    one, other = (
        await memory.read(prompt(40), stops=(30,)),
        await memory.read(prompt(33, salt=1), name="other"),
    )
    await memory.decode(one, other, count=5)
    decode = (Decode(one, 6), Decode(other, 6))
    await memory.step(
        StepPlan(
            decode=decode,
            snapshots=(
                SaveSnapshot(snapshot_key(46), one, 46),
                SaveSnapshot(snapshot_key(39, "other"), other, 39),
            ),
        )
    )
    await memory.decode(one, other, count=4, first=7)
    closing = [
        RowClose(
            row, blocks(row, length, key), SaveSnapshot(snapshot_key(length, key), row, length)
        )
        for row, length, key in ((one, 50, ""), (other, 43, "other"))
    ]
    history, others = prompt(40) + FORCED[:11], prompt(33, salt=1) + FORCED[:11]

    rows = [
        (history[:32], memory.restore(30)),
        (history[:48], memory.restore(46)),
        (history, memory.restore(50)),
        (others, memory.restore(43, "other")),
    ]
    found = await memory.scores(rows, close=tuple(closing))

    for (tokens, _), scores in zip(rows, found, strict=True):
        assert close(scores, await memory.expected(tokens)), f"{len(tokens)} tokens"


async def test_a_row_that_others_join_and_leave_scores_as_if_it_were_alone() -> None:
    """Preempted rows included: one is closed in the middle, and goes on beside the others."""
    memory = Memory(tiny_runner("qwen3_5"))
    rows = [await memory.read(prompt(20 + salt, salt=salt), name=f"{salt}") for salt in range(4)]
    await memory.decode(*rows, count=6)
    preempted = RowClose(
        rows[1], blocks(rows[1], 27, "1"), SaveSnapshot(snapshot_key(27, "1"), rows[1], 27)
    )
    resumed = await memory.score(
        prompt(21, salt=1) + FORCED[:7], memory.restore(27, "1"), close=(preempted,)
    )
    await memory.decode(rows[0], rows[2], rows[3], count=13, first=7)
    await memory.land()

    assert close(resumed, await memory.expected(prompt(21, salt=1) + FORCED[:7]))
    for salt in (0, 2, 3):
        assert close(
            logprobs(memory.drawn[rows[salt]]), await memory.expected(prompt(20 + salt, salt=salt))
        )


def test_states_are_not_copied_while_the_same_rows_decode() -> None:
    def count() -> list[int]:
        layout = DecodingLayout(tiny_model("qwen3_5"))
        rows = [layout.open() for _ in range(3)]
        for row in rows:
            layout.forward(mx.arange(5), [RowSpan(row, 5, wants_logits=True)])
        stacks = []
        for some in (rows, rows, rows[:2], rows[:2], rows):
            layout.forward(
                mx.zeros(len(some), mx.int32), [RowSpan(row, 1, wants_logits=True) for row in some]
            )
            stacks.append(id(layout._stack))
            kept.append(layout._stack)
        return stacks

    kept: list[object] = []
    first, second, third, fourth, fifth = on_device(count)

    assert first == second != third == fourth != fifth


@pytest.mark.parametrize("name", ["longcat_flash_ngram"])
def test_a_row_whose_state_has_another_form_reads_by_itself_until_it_has_the_same(
    name: str,
) -> None:
    """The state of a row of one token is shorter than that of the others."""
    assert on_device(lambda: difference(name)) < 1e-4


# Faults that could be made, each of which the comparison has to see.


def swap_rows(stack: StackedStates) -> StackedStates:
    for layer in stack.layers:
        layer.cache = [None if array is None else array[::-1] for array in layer.cache]
    return stack


def forget_states(stack: StackedStates) -> StackedStates:
    for layer in stack.layers:
        layer.cache = [None if array is None else mx.zeros_like(array) for array in layer.cache]
    return stack


@pytest.mark.parametrize("fault", [swap_rows, forget_states])
@pytest.mark.parametrize("name", ["qwen3_5", "nemotron_h", "lfm2"])
def test_a_wrong_stack_is_noticed_at_load(
    name: str, fault: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    gather = StackedStates.gather
    monkeypatch.setattr(StackedStates, "gather", lambda rows: fault(gather(rows)))  # type: ignore[operator]

    assert isinstance(on_device(lambda: choose_layout(tiny_model(name))), InTurnLayout)


@pytest.mark.parametrize("name", ["qwen3_5", "nemotron_h", "lfm2"])
def test_states_that_are_lost_when_a_row_leaves_are_noticed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proved at load with the faults away, so that the comparison itself is put to the test."""

    def lose(stack: StackedStates) -> None:
        for row in stack.rows:
            for cache in states_of(row):
                cache.cache = [None] * len(cache.cache)

    def compare() -> float:
        model = tiny_model(name)
        layout = choose_layout(model)
        wanted = forced_logits(InTurnLayout(model))
        with monkeypatch.context() as patch:
            patch.setattr(StackedStates, "scatter", lose)
            return largest_difference(forced_logits(layout), wanted)

    assert on_device(compare) > 1e-3


async def test_a_snapshot_of_the_row_beside_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    memory = Memory(tiny_runner("qwen3_5"))
    copy_of = StackedStates.copy_of
    one, other = await memory.read(prompt(40)), await memory.read(prompt(40, salt=1), name="other")
    await memory.decode(one, other, count=5)
    monkeypatch.setattr(
        StackedStates,
        "copy_of",
        lambda self, row: copy_of(self, next(each for each in self.rows if each is not row)),
    )
    await memory.step(
        StepPlan(close=(RowClose(one, blocks(one, 45), SaveSnapshot(snapshot_key(45), one, 45)),))
    )
    monkeypatch.undo()
    history = prompt(40) + FORCED[:8]

    assert not close(
        await memory.score(history, memory.restore(45)), await memory.expected(history)
    )
