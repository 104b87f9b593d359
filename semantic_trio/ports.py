"""What the engine needs from outside. Each port has a real and a fake implementation that pass the same contract tests."""

from typing import Protocol

from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.step import StepPlan, StepResult
from semantic_trio.domain.stopping import TextDecoder


class ModelRunner(Protocol):
    """Computes steps. One step runs at a time; every row has its own cache, which a close gives back."""

    async def step(self, plan: StepPlan) -> StepResult:
        """Close and open rows, then start one forward pass.

        Returns what has been drawn since the last answer; with `in_flight` set the tokens of this very plan come with the next answer (a plan
        without work collects them). A running step is not interrupted by cancellation: its tokens are lost to a caller that was.
        Raises `StepFailedError` when the device does, and then every row is in doubt until `reset`.
        """

    async def reset(self) -> None:
        """Drop every row and whatever is in flight. The model stays loaded. Raises `StepFailedError` when the device does."""


class TextCodec(Protocol):
    """One model's tokenizer and chat template."""

    @property
    def stop_tokens(self) -> frozenset[int]:
        """Ids that end a turn."""

    def encode_prompt(self, conversation: Conversation) -> tuple[int, ...]:
        """The prompt up to where the assistant is to speak. Raises `InvalidRequestError` where the template refuses. Holds no lock for long."""

    def decoder(self) -> TextDecoder:
        """A fresh decoder for the tokens of one generation."""
