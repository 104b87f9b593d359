"""Reports of the engine: what happens to requests, for the log and for the observer.

Knows generations, sequences and plans. Changes nothing but the time at which a generation got its
row, and what it could reuse.
"""

from collections.abc import Iterable, Mapping
from typing import TypedDict

import attrs
import structlog
import trio

from semantic_trio.application.generation import Generation
from semantic_trio.domain.generation import Event, Failed
from semantic_trio.domain.observation import Evicted, PromptRead, RowOpened
from semantic_trio.domain.reuse import NOTHING_REUSED
from semantic_trio.domain.sequence import Phase, Sequence
from semantic_trio.domain.step import StepPlan
from semantic_trio.ports.observing import Observer

log = structlog.get_logger(__name__)

# Seconds between two log lines on long prompts that are being read, and the age of such a prompt:
# its client sees nothing meanwhile.
PROGRESS_SECONDS = 10.0


@attrs.define(eq=False)
class Reports:
    """Reports of one engine. `owners` are its generations by their sequences."""

    observer: Observer
    _evictions: int = attrs.field(init=False, default=0)  # that were reported
    # when long prompts may be logged again
    _progress_at: float = attrs.field(init=False, default=0.0)

    def planned(
        self, plan: StepPlan | None, evictions: int, owners: Mapping[Sequence, Generation]
    ) -> None:
        """Report the rows that open for the first time with a plan, and the evictions of blocks
        since the plan before: `evictions` in all.
        """
        if evictions > self._evictions:
            self.observer.observe(Evicted(tier="ram", entries=evictions - self._evictions))
            self._evictions = evictions
        opened = {start.row for start in plan.open} if plan is not None else set()
        for sequence, generation in owners.items() if opened else ():
            if sequence.row in opened and generation.started_at is None:
                generation.started_at = trio.current_time()
                generation.reuse, generation.agent = sequence.reuse, sequence.agent
                self.observer.observe(_row_opened(generation, generation.started_at))

    def progress(self, owners: Mapping[Sequence, Generation]) -> None:
        """Log the prompts that take long to be read, every `PROGRESS_SECONDS`."""
        now = trio.current_time()
        if now < self._progress_at:
            return
        self._progress_at = now + PROGRESS_SECONDS
        for sequence, generation in owners.items():
            if (
                sequence.phase is Phase.PREFILLING
                and now >= generation.submitted_at + PROGRESS_SECONDS
            ):
                request = sequence.request
                log.info(
                    "a long prompt is being read",
                    **_log_ids(generation),
                    prompt_tokens=len(request.prompt),
                    left=sequence.unread,
                )

    def aged(self, aged: Iterable[Sequence], owners: Mapping[Sequence, Generation]) -> None:
        """Log the background sequences that have waited so long that they are served as interactive
        ones from now on.
        """
        for sequence in aged:
            log.info(
                "a background request has become interactive",
                **_log_ids(owners[sequence]),
                waited_seconds=round(sequence.waited_seconds),
            )

    def delivering(self, generation: Generation, event: Event, now: float) -> None:
        """Report an event that is about to be delivered: a failure, or the first token, with which
        the prompt is read.
        """
        if isinstance(event, Failed):
            log.warning("a generation has failed", **_log_ids(generation), reason=str(event.error))
        elif not generation.stamps:
            assert generation.started_at is not None, "a prompt is read in a row"
            tokens = len(generation.request.prompt) - (generation.reuse or NOTHING_REUSED).tokens
            self.observer.observe(
                PromptRead(**_ids(generation), tokens=tokens, seconds=now - generation.started_at)
            )


class _Ids(TypedDict):
    """Ids that every observation of a request has."""

    request_id: str
    agent: str  # empty if the request has none


def _log_ids(generation: Generation) -> dict[str, str]:
    """Return the ids of a generation's request, agent and trace."""
    agent = generation.agent.id if generation.agent is not None else None
    return generation.request.log_ids(agent)


def _ids(generation: Generation) -> _Ids:
    """Return the ids of a generation's request and agent."""
    agent = generation.agent.id if generation.agent is not None else generation.request.agent
    return {"request_id": generation.request.request_id, "agent": agent or ""}


def _row_opened(generation: Generation, now: float) -> RowOpened:
    """Return the report of a generation that has got its row."""
    reuse = generation.reuse or NOTHING_REUSED
    return RowOpened(
        **_ids(generation),
        waited_seconds=now - generation.submitted_at,
        prompt_tokens=len(generation.request.prompt),
        reused_tokens=reuse.tokens,
        source=reuse.source,
        cause=reuse.cause,
        lost_tokens=reuse.lost_tokens,
        priority=generation.request.priority,
    )
