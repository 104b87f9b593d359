"""The parts of the scheduler, each for itself."""

from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.queue import Queue
from semantic_trio.domain.recent_plans import RecentPlans
from semantic_trio.domain.sequence import Sequence
from semantic_trio.domain.step import Chunk, Decode, RowClose, SaveBlock, SaveSnapshot, StepPlan
from semantic_trio.testing import ByteCodec


def sequence(agent: str | None = None, *, is_ordered: bool = False) -> Sequence:
    request = GenerationRequest("r", (1, 2, 3), 5, seed=1, agent=agent, is_ordered=is_ordered)
    return Sequence(request, 5, ByteCodec().decoder())


def test_ordered_turns_of_an_agent_begin_one_after_another() -> None:
    queue, first, second, free = (
        Queue(),
        sequence("a", is_ordered=True),
        sequence("a", is_ordered=True),
        sequence("a"),
    )
    for one in (first, second, free):
        queue.add(one)

    before = [queue.is_out_of_turn(one) for one in (first, second, free)]
    queue.remove(first)
    running = queue.is_out_of_turn(second)
    queue.end_turn(first)

    assert (before, running) == ([False, True, False], True)
    assert not queue.is_out_of_turn(second)


def test_turns_of_different_agents_do_not_wait_for_each_other() -> None:
    queue, first, other = Queue(), sequence("a", is_ordered=True), sequence("b", is_ordered=True)
    queue.add(first)
    queue.add(other)

    assert not queue.is_out_of_turn(other)


def test_a_sequence_that_lost_its_row_is_the_first_to_get_one() -> None:
    queue, waiting, preempted = Queue(), sequence(), sequence()
    queue.add(waiting)

    queue.put_back(preempted)

    assert list(queue) == [preempted, waiting]


def test_a_row_has_surely_read_what_it_had_before_the_last_two_plans() -> None:
    plans = RecentPlans()
    for read in (10, 20, 30):
        plans.add(StepPlan(prefill=(Chunk(1, (5,) * 10, read),)), {1: read, 2: 7})

    assert plans.read_before({1: 40, 2: 7}) == {1: 20, 2: 7}
    assert plans.read_before({2: 7}) == {2: 7}, "a row that is gone has read nothing"


def test_recent_plans_know_their_rows_snapshots_and_closings() -> None:
    plans, closing = RecentPlans(), RowClose(3, (SaveBlock(b"block", 3, 0, 16),))
    plans.add(StepPlan(close=(closing,), decode=(Decode(1, 0),)), {1: 9})
    plans.add(
        StepPlan(decode=(Decode(2, 0),), snapshots=(SaveSnapshot(b"snapshot", 2, 9),)), {2: 9}
    )
    plans.is_in_flight = True

    assert (plans.rows, plans.snapshots, plans.closings) == (
        frozenset({1, 2}),
        {b"snapshot"},
        [closing],
    )
    assert list(plans.rows_in_flight) == [2]
    plans.clear()
    assert (plans.rows, plans.closings, list(plans.rows_in_flight)) == (frozenset(), [], [])
