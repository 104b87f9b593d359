"""A turn of an agent whose conversation the server keeps.

A turn waits for its place in the agent's queue, is encoded with the conversation as that is then,
and is appended to it when the turn is over. A turn that fails or is cancelled appends neither
message nor answer, so the same request may be sent again; what was computed for it stays cached.
"""

import functools
from collections.abc import Iterable

import attrs

from semantic_trio.adapters.http.agents.turn_queue import QueuePlace
from semantic_trio.adapters.http.common.exchange import Exchange
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import encode, submit
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.answer import Answer, Encoded, WholeAnswer
from semantic_trio.application.answer_parts import AnswerEvent
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import unpack
from semantic_trio.domain.conversation import NOTHING_SAID, Conversation, Message, Part, Role, Text
from semantic_trio.domain.errors import AgentNotFoundError, SemanticError
from semantic_trio.domain.generation import Failed, Finished
from semantic_trio.domain.prompt import Prompt
from semantic_trio.domain.salt import own_part

# Two probe messages: where the prompts with the one and with the other differ, the words of the
# next message begin.
SAID_NEXT = tuple(Message(Role.USER, (Text(text),)) for text in ("\N{REPLACEMENT CHARACTER}", "x"))


@attrs.define(eq=False)
class RunningTurn:
    """A turn from its arrival on: an `EventSource` for streams, `result` for whole answers.

    Its generation ends with the exchange.
    """

    state: AppState
    exchange: Exchange
    model: ServedModel
    agent: Agent
    place: QueuePlace
    # with the new messages only; tool choice and format are those of this turn
    params: GenerationParams
    _answer: Answer | None = attrs.field(init=False, default=None)

    async def begin(self) -> Answer:
        """Wait for the turn's place and submit it, once. Cancellation loses nothing.

        Raises `AgentNotFoundError` for an agent that was deleted meanwhile, `InvalidRequestError`
        and what `submit` raises.
        """
        if self._answer is None:
            await self.place.wait()
            messages = (*self.agent.conversation.messages, *self.params.conversation.messages)
            params = attrs.evolve(
                self.params, conversation=attrs.evolve(self.params.conversation, messages=messages)
            )
            encoded = await encode(
                self.state, self.model, params.conversation, self.model.salt(params.identity)
            )
            refuse_deleted(self.agent)
            self._answer = submit(self.state, self.exchange, self.model, params, encoded)
            self.place.submitted(
                functools.partial(self.model.engine.hurry, self._answer.generation)
            )
        return self._answer

    async def result(self) -> WholeAnswer:
        """Return the whole answer.

        Raises what `begin` raises, and the error of a failed generation.
        """
        whole = await (await self.begin()).result()
        self._append(whole.parts_with_cut)
        return whole

    async def receive(self) -> list[AnswerEvent]:
        """See `EventSource`. Errors are events, for the stream has begun."""
        try:
            answer = await self.begin()
        except SemanticError as error:
            return [Failed(error)]
        events = await answer.receive()
        if isinstance(events[-1], Finished):
            self._append(answer.parts_with_cut)
        return events

    def _append(self, answer: tuple[Part, ...]) -> None:
        """Append the turn to the conversation, before the client sees its end, and let the next
        turn begin.
        """
        new_messages = (*self.params.conversation.messages, Message(Role.ASSISTANT, answer))
        self.agent.conversation = _with_messages(self.agent.conversation, new_messages)
        self.model.engine.memory.write(self.agent)
        self.place.leave()


def refuse_deleted(agent: Agent) -> None:
    """Raise `AgentNotFoundError` for an agent that was deleted since it was found."""
    if agent.is_deleted:
        raise AgentNotFoundError(agent.id)


async def next_prompt_prefix(model: ServedModel, agent: Agent) -> Encoded:
    """Return the prefix that the next prompt of an agent has in any case, without an adapter; empty
    where there is none.

    For an agent whose clients keep the conversation that is its history, unless another tokenizer
    or chat template has read it.
    """
    fits, salt = model.engine.memory.agents.fits(agent.text_fingerprint), own_part(agent.salt)
    if agent.history and fits and not agent.conversation.messages:
        return Encoded(NOTHING_SAID, (), Prompt(unpack(agent.history)), salt=salt)
    one, other = [
        (await model.encode(_with_messages(agent.conversation, (new_messages,)), salt)).prompt
        for new_messages in SAID_NEXT
    ]
    alike = next(
        (
            at
            for at, pair in enumerate(zip(one.tokens, other.tokens, strict=False))
            if pair[0] != pair[1]
        ),
        0,
    )
    return Encoded(
        NOTHING_SAID,
        (),
        Prompt(one.tokens[:alike], min(one.head, alike), thinking=one.thinking),
        salt=salt,
    )


def _with_messages(before: Conversation, after: Iterable[Message]) -> Conversation:
    return attrs.evolve(before, messages=(*before.messages, *after))
