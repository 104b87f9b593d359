"""Fakes that pass the contract tests of the real parts, for tests of what is built on them.

On trio's virtual clock a whole engine runs without a thread, a model or a moment's waiting.
"""

import hashlib
from collections.abc import Callable

import attrs
import trio

from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.errors import StepFailedError
from semantic_trio.domain.step import Drawn, RowStart, StepPlan, StepResult

END_OF_TURN = 0  # the byte that ends a turn in `ByteCodec`'s alphabet


@attrs.define
class _FakeRow:
    start: RowStart
    cache: list[int] = attrs.field(factory=list)  # every token this row has read: what a real row keeps as keys and values
    drawn: int = -1


@attrs.define(eq=False)
class FakeRunner:
    """A model whose next token is a function of every cache position it was given, so that a lost or mixed up one shows.

    Tokens are the letters a to z. `seconds_per_step` and `seconds_per_prompt_token` pass on trio's clock. Like the real one it answers one step
    late, unless `look_ahead` is off.
    """

    seconds_per_step: float = 0.0
    seconds_per_prompt_token: float = 0.0
    look_ahead: bool = True
    before_step: Callable[[StepPlan], None] = lambda plan: None  # may raise, to play a device that fails
    end_after: int | None = None  # index of the token at which every row ends its turn
    rows: dict[int, _FakeRow] = attrs.field(init=False, factory=dict)
    plans: list[StepPlan] = attrs.field(init=False, factory=list)
    _late: StepResult = attrs.field(init=False, factory=StepResult)

    async def step(self, plan: StepPlan) -> StepResult:
        """See `ModelRunner.step`."""
        self.plans.append(plan)
        try:
            self.before_step(plan)
        except Exception as error:
            raise StepFailedError(str(error)) from error
        for row in plan.close:
            del self.rows[row]
        for start in plan.open:
            self.rows[start.row] = _FakeRow(start)
        prompt_tokens = plan.prompt_tokens
        seconds = self.seconds_per_step * plan.has_work + self.seconds_per_prompt_token * prompt_tokens
        await trio.sleep(seconds)
        now = self._compute(plan, seconds)
        if not self.look_ahead:
            return now
        answer, self._late = self._late, now
        return attrs.evolve(answer, in_flight=plan.has_work)

    async def reset(self) -> None:
        """See `ModelRunner.reset`."""
        await trio.lowlevel.checkpoint()
        self.rows.clear()
        self._late = StepResult()

    def _compute(self, plan: StepPlan, seconds: float) -> StepResult:
        drawn = []
        for decode in plan.decode:
            row = self.rows[decode.row]
            row.cache.append(row.drawn)
            drawn.append(self._draw(row, decode.draws))
        for chunk in plan.prefill:
            row = self.rows[chunk.row]
            assert chunk.context == len(row.cache)
            row.cache += chunk.tokens
            if chunk.draws is not None:
                drawn.append(self._draw(row, chunk.draws))
        if not plan.has_work:
            return StepResult()
        return StepResult(tuple(drawn), plan.timing(seconds))

    def _draw(self, row: _FakeRow, index: int) -> Drawn:
        chance = "" if row.start.sampling.is_greedy else f"{row.start.seed}/{index}"
        digest = hashlib.sha256(f"{row.cache}{chance}".encode()).digest()
        token = ord("a") + digest[0] % 26
        if self.end_after is not None and index >= self.end_after:
            token = END_OF_TURN
        if index < len(row.start.forced):
            token = row.start.forced[index]
        row.drawn = token
        score = hashlib.sha256(f"{row.cache}{token}".encode()).digest()
        return Drawn(row.start.row, index, token, -score[0] / 16)


@attrs.define
class ByteDecoder:
    """Bytes to text, a character at a time."""

    _held: bytes = b""

    def push(self, token: int) -> str:
        """See `TextDecoder.push`."""
        self._held += bytes([token % 256])
        try:
            text = self._held.decode()
        except UnicodeDecodeError as error:
            if error.end == len(self._held) and error.reason == "unexpected end of data":
                return ""
            text = self._held.decode(errors="replace")
        self._held = b""
        return text

    def flush(self) -> str:
        """See `TextDecoder.flush`."""
        held, self._held = self._held, b""
        return held.decode(errors="replace")


class ByteCodec:
    """One token per byte; a prompt reads `role:text` line by line."""

    stop_tokens: frozenset[int] = frozenset({END_OF_TURN})

    def encode_prompt(self, conversation: Conversation) -> tuple[int, ...]:
        """See `TextCodec.encode_prompt`."""
        lines = [f"{message.role.value}:{message.text}\n" for message in conversation.messages]
        return tuple("".join([*lines, "assistant:"]).encode())

    def decoder(self) -> ByteDecoder:
        """See `TextCodec.decoder`."""
        return ByteDecoder()
