"""The runner under a deadline: a device that hangs raises nothing, and its thread cannot be killed.

Knows the runner and seconds on trio's clock. Knows nothing of sequences.
"""

import attrs
import trio

from semantic_trio.domain.errors import EngineDeadError, StepFailedError
from semantic_trio.domain.step import Inventory, SaveBlock, StepPlan, StepResult
from semantic_trio.ports.runner import ModelRunner


@attrs.frozen(eq=False)
class WatchedRunner:
    """Calls a runner, and raises `EngineDeadError` if a call does not return in time."""

    runner: ModelRunner
    deadline_seconds: float

    async def step(self, plan: StepPlan, expected_seconds: float) -> StepResult:
        """Run a step.

        Its deadline grows with the time it is expected to take. Raises `StepFailedError` if it
        fails.
        """
        deadline = self.deadline_seconds + 2 * expected_seconds
        with trio.move_on_after(deadline):
            return await self.runner.step(plan)
        raise EngineDeadError(
            f"a step hung for {deadline:.0f} s ({len(plan.decode)} rows decoding, "
            f"{plan.prompt_tokens} prompt tokens)"
        )

    async def inventory(self) -> Inventory:
        """Return what the device holds. Raises `StepFailedError` if it cannot be asked."""
        with trio.move_on_after(self.deadline_seconds):
            return await self.runner.inventory()
        raise EngineDeadError(
            f"the device hung for {self.deadline_seconds:.0f} s when it was asked what it holds"
        )

    async def reset(self, readable: tuple[SaveBlock, ...]) -> Inventory:
        """Rebuild the device, and save the blocks of lost rows that are still readable.

        Returns what the device holds then.
        """
        with trio.move_on_after(self.deadline_seconds):
            try:
                await self.runner.reset(readable)
                return await self.runner.inventory()
            except StepFailedError as error:
                raise EngineDeadError(f"the device could not be reset: {error.reason}") from error
        raise EngineDeadError("the device hung while it was being reset")
