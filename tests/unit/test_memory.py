"""The memory of agents under any order of events: what is reused is what was read, and nothing is
lost, held twice or leaked.
"""

import hashlib
from collections.abc import Mapping

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from semantic_trio.domain.content import Kind
from semantic_trio.domain.entries import Block
from semantic_trio.domain.errors import SemanticError
from semantic_trio.domain.eviction import Rank
from semantic_trio.domain.generation import Event, Finished, GenerationRequest, TokenEvent
from semantic_trio.domain.geometry import LayerGroup, LayerKind, ModelCacheSpec
from semantic_trio.domain.memory import Memory
from semantic_trio.domain.pins import PINS_SHARE
from semantic_trio.domain.priority import Priority
from semantic_trio.domain.prompt import Breakpoint
from semantic_trio.domain.salt import NO_SALT, Salt
from semantic_trio.domain.scheduler import Limits, Scheduler
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.snapshots import SNAPSHOTS_SHARE
from semantic_trio.domain.step import Inventory, SaveBlock, StepPlan, StepResult
from semantic_trio.testing import ByteCodec, FakeRunner
from tests.search import examples

GLOBAL = LayerGroup(LayerKind.GLOBAL, layers=1, token_bytes=8)
SPECS = {
    "attention": ModelCacheSpec("a", (GLOBAL,), block_tokens=16, row_slack_tokens=32),
    "sliding": ModelCacheSpec(
        "s",
        (GLOBAL, LayerGroup(LayerKind.SLIDING, layers=1, token_bytes=4, window=24)),
        block_tokens=16,
        row_slack_tokens=32,
    ),
    "recurrent": ModelCacheSpec(
        "r",
        (GLOBAL, LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=100)),
        block_tokens=16,
        row_slack_tokens=32,
    ),
    "recurrent alone": ModelCacheSpec(
        "m",
        (LayerGroup(LayerKind.RECURRENT, layers=1, state_bytes=100),),
        block_tokens=16,
        row_slack_tokens=32,
    ),
}
SPECS |= {
    f"{kind}, paged": attrs.evolve(SPECS[kind], is_paged=True) for kind in ("attention", "sliding")
}

NAMES = [None, None, "x", "y"]
SALTS = [NO_SALT, NO_SALT, b"s" * 32]


class Device(FakeRunner):
    """The fake runner without its clock."""

    late = StepResult()

    def advance(self, plan: StepPlan) -> StepResult:
        self._keep_and_drop(plan)
        for start in plan.open:
            self._open(start)
        now = self._compute(plan, 0.01)
        for snapshot in plan.snapshots:
            self._save_snapshot(snapshot)
        answer, self.late = self.late, now
        return StepResult(answer.sampled, answer.timing, in_flight=plan.has_work)

    def lose(self, readable: tuple[SaveBlock, ...]) -> None:
        for save in readable:
            if save.row in self.rows and len(self.rows[save.row].cache) >= save.stop:
                self._save_block(save)
        self.rows.clear()
        self.late = StepResult()


def uncached(prompt: tuple[int, ...], count: int) -> list[int]:
    """What the fake model says after a prompt when it has read all of it."""
    cache, drawn = list(prompt), list[int]()
    for _ in range(count):
        digest = hashlib.sha256(f"{cache}".encode()).digest()
        drawn.append(ord("a") + digest[0] % 26)
        cache.append(drawn[-1])
    return drawn


def text(seed: int, length: int) -> tuple[int, ...]:
    """One of a few texts that begin alike: they share `seed % 5` times 20 tokens."""
    shared = 20 * (seed % 5)
    return tuple((i * 7) % 50 if i < shared else (i * 7 + seed) % 50 for i in range(length))


class MemoryMachine(RuleBasedStateMachine):
    """Agents of every kind take turns, fork, are pinned, deleted; the device fails; there is never
    enough room.
    """

    @initialize(
        kind=st.sampled_from(sorted(SPECS)),
        rows=st.integers(1, 4),
        chunk=st.sampled_from([16, 50]),
        blocks=st.integers(14, 60),
    )
    def begin(self, kind: str, rows: int, chunk: int, blocks: int) -> None:
        self.spec = SPECS[kind]
        self.limits = Limits(
            context_length=400, max_rows=rows, chunk_tokens=chunk, max_stall_seconds=1.0
        )
        budget = blocks * sum(self.spec.row_amount(16, chunk)) // 2
        self.memory = Memory(self.spec, budget, chunk, max_agents=12)
        self.scheduler, self.device = Scheduler(self.limits, self.memory), Device(spec=self.spec)
        self.alive: list[Sequence] = []
        self.askers, self.requests = set[str](), 0
        self.ranks: dict[Block, Rank] = {}
        self.salts_of_rows, self.salts_of_keys = dict[int, Salt](), dict[bytes, Salt]()
        self.histories: list[tuple[int, ...]] = [
            text(seed, 40 + 23 * (seed % 7)) for seed in range(6)
        ]

    @rule(
        history=st.integers(0, 50),
        more=st.integers(0, 40),
        max_tokens=st.integers(0, 30),
        name=st.sampled_from(NAMES),
        salt=st.sampled_from(SALTS),
        turn=st.tuples(st.booleans(), st.sampled_from(Priority)),
        breakpoints=st.lists(
            st.builds(
                Breakpoint,
                st.integers(1, 300),
                st.sampled_from([Rank.PLAIN, Rank.MARKED, Rank.LONG]),
            ),
            max_size=3,
        ),
    )
    def ask(
        self,
        history: int,
        more: int,
        max_tokens: int,
        name: str | None,
        salt: Salt,
        turn: tuple[bool, Priority],
        breakpoints: list[Breakpoint],
    ) -> None:
        before = self.histories[history % len(self.histories)]
        prompt = (*before, *text(history + more, more))[:390]
        points = tuple(point for point in breakpoints if point.position <= len(prompt))
        asked = GenerationRequest(
            "r",
            prompt,
            max_tokens,
            seed=1,
            salt=salt,
            agent=name,
            is_ordered=turn[0],
            priority=turn[1],
            boundaries=(33,),
            breakpoints=points,
        )
        try:
            asker = self.memory.get_or_create(name) if name else None
            self.alive.append(self.scheduler.add(asked, ByteCodec().decoder(), asker))
        except SemanticError:
            # too long, or no room for it at all; the agent it names is there
            self.askers |= {name} if name else set()
            return
        self.askers |= {name or f"request {self.requests}"}
        self.requests += 1

    @precondition(lambda self: self.alive)
    @rule(choice=st.integers(0, 99))
    def abort(self, choice: int) -> None:
        sequence = self.alive[choice % len(self.alive)]
        self.scheduler.abort(sequence)
        self.alive.remove(sequence)

    @precondition(
        lambda self: any(s.phase in (Phase.PREFILLING, Phase.DECODING) for s in self.alive)
    )
    @rule(choice=st.integers(0, 99))
    def preempt(self, choice: int) -> None:
        running = [s for s in self.alive if s.phase in (Phase.PREFILLING, Phase.DECODING)]
        self.scheduler.preempt(running[choice % len(running)])

    @precondition(lambda self: len(self.memory.agents) > 0)
    @rule(
        choice=st.integers(0, 99),
        what=st.sampled_from(["fork", "pin", "unpin", "release", "delete", "evict"]),
    )
    def manage(self, choice: int, what: str) -> None:
        agents = list(self.memory.agents)
        agent = agents[choice % len(agents)]
        try:
            if what == "fork":
                self.memory.fork(agent, f"fork{choice % 6}")
                self.askers |= {f"fork{choice % 6}"}
            elif what == "evict":
                self.memory.store.evict_all()
            else:
                getattr(self.memory, what)(agent)
        except SemanticError:
            pass  # exists already, or pins would take too much

    @rule(steps=st.integers(1, 12))
    def advance(self, steps: int) -> None:
        for _ in range(steps):
            plan = self.plan()
            self._take(self.scheduler.refused())
            if plan is None:
                return
            self._take(self.scheduler.commit(self.device.advance(plan)))
            self.scheduler.elapse(20.0)

    @rule(breaks_before=st.booleans())
    def fail(self, breaks_before: bool) -> None:
        """A pass fails: before anything of its plan was done, or after."""
        plan = self.plan()
        self._take(self.scheduler.refused())
        if plan is None:
            return
        if not breaks_before:
            self.device.advance(plan)
        lost, readable = self.scheduler.lose_rows()
        self._note_salts({save.key: save.row for save in readable})
        for sequence in lost:
            self.alive.remove(sequence)
        self.device.lose(readable)
        self._reconcile()

    def plan(self) -> StepPlan | None:
        """The next step. What rows begin with was read under their own salt."""
        plan = self.scheduler.plan()
        if plan is None:
            return None
        self._note_salts({save.key: save.row for closing in plan.close for save in closing.blocks})
        self._note_salts(
            {closing.snapshot.key: closing.row for closing in plan.close if closing.snapshot}
        )
        self.salts_of_rows |= {
            start.row: self.scheduler.batch[start.row].request.salt for start in plan.open
        }
        for start in plan.open:
            pieces = start.restore.pieces if start.restore else ()
            found = {
                self.salts_of_keys[piece.block]
                if piece.block
                else self.salts_of_rows[piece.row or 0]
                for piece in pieces
            }
            found |= (
                {self.salts_of_keys[start.restore.snapshot]}
                if start.restore and start.restore.snapshot
                else set()
            )
            assert found <= {self.salts_of_rows[start.row]}, "no block is shared by two salts"
        self._note_salts({snapshot.key: snapshot.row for snapshot in plan.snapshots})
        return plan

    def _note_salts(self, rows: Mapping[bytes, int]) -> None:
        """The salts of blocks and snapshots that rows have read."""
        for key, row in rows.items():
            assert (
                self.salts_of_keys.setdefault(key, self.salts_of_rows[row])
                == self.salts_of_rows[row]
            ), "a name is of one salt"

    def _reconcile(self) -> list[str]:
        inventory = Inventory(
            frozenset(self.device.rows),
            frozenset(self.device.blocks),
            frozenset(self.device.snapshots),
        )
        return self.memory.reconcile(inventory)

    def _take(self, events: list[tuple[Sequence, Event]]) -> None:
        for sequence, event in events:
            assert sequence in self.alive
            if not isinstance(event, TokenEvent):
                self.alive.remove(sequence)
            if isinstance(event, Finished):
                assert sequence.generated == uncached(
                    sequence.request.prompt, len(sequence.generated)
                ), "reuse changes nothing"
                assert event.reuse.tokens < event.prompt_tokens
                self.histories.append(sequence.request.prompt + tuple(sequence.generated))

    @invariant()
    def the_books_agree(self) -> None:
        """Pins with their snapshots and what agents own are a part of it: nothing that is gone is
        anybody's.
        """
        self.memory.audit()

    @invariant()
    def there_are_no_more_agents_than_have_asked(self) -> None:
        assert len(self.memory.agents) <= len(self.askers)

    @invariant()
    def every_turn_that_is_not_over_is_somebodys_and_no_other(self) -> None:
        waiting = sum(
            sequence.agent is not None and sequence.phase is not Phase.FINISHED
            for sequence in self.alive
        )
        assert sum(agent.open_turns for agent in self.memory.agents) <= waiting

    @invariant()
    def the_rank_of_a_block_never_falls(self) -> None:
        blocks = list(self.memory.store.tree.blocks())
        assert all(block.rank >= self.ranks.get(block, Rank.PLAIN) for block in blocks)
        queue = self.memory.store.states.queues[Kind.BLOCK]
        ranked = {
            block: rank
            for rank in Rank
            for held_back in (False, True)
            for block in queue.of_rank(rank, held_back=held_back)
        }
        assert ranked == {
            block: block.rank for block in blocks if block.is_cached and not block.pins
        }
        self.ranks = {block: block.rank for block in blocks}

    @invariant()
    def pins_and_snapshots_keep_their_bounds(self) -> None:
        share = self.memory.budget_bytes * SNAPSHOTS_SHARE
        assert self.memory.snapshots.used <= share
        assert self.memory.pins.snapshot_bytes <= share * PINS_SHARE
        assert self.memory.pins.bytes <= self.memory.budget_bytes * PINS_SHARE

    def teardown(self) -> None:
        for agent in self.memory.agents:
            self.memory.unpin(agent)
        for _ in range(3000):
            plan = self.plan()
            self._take(self.scheduler.refused())
            if plan is None:
                break
            self._take(self.scheduler.commit(self.device.advance(plan)))
        assert not self.alive, "everyone is served or refused in the end"
        assert self.scheduler.is_idle
        assert self._reconcile() == [], "the device holds what the memory believes"


TestMemory = MemoryMachine.TestCase
TestMemory.settings = settings(max_examples=examples(1000), stateful_step_count=40, deadline=None)
TestMemory = pytest.mark.exhaustive(pytest.mark.timeout(1200)(TestMemory))
