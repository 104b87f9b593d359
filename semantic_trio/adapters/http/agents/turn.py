"""One turn with an agent whose conversation is kept here.

It waits for its place, is asked from the conversation as that is then, and is added to it when it is over. A turn that fails or is given up adds
nothing, neither message nor answer, so the same request may be sent again; what was computed for it stays cached.
"""

import attrs
import trio

from semantic_trio.adapters.http.agents.line import Place
from semantic_trio.adapters.http.exchange import Exchange
from semantic_trio.adapters.http.generate import Asked, log_prompt, submit
from semantic_trio.adapters.http.state import AppState, ServedModel
from semantic_trio.application.handle import Generation
from semantic_trio.domain.agent import Agent
from semantic_trio.domain.chain import unpack
from semantic_trio.domain.conversation import Conversation, Message, Prompt, Role, Text
from semantic_trio.domain.errors import AgentNotFoundError, SemanticError
from semantic_trio.domain.generation import Event, Failed, Finished, GenerationResult, TokenEvent

# Said by nobody: where the prompts with the one and with the other part, the next speaker's words begin.
SAID_NEXT = tuple(Message(Role.USER, (Text(text),)) for text in ("\N{REPLACEMENT CHARACTER}", "x"))


@attrs.define(eq=False)
class Turn:
    """A turn from the moment it was asked for: an `EventSource` for streams, `result` for the rest. Its generation ends with the exchange."""

    state: AppState
    exchange: Exchange
    model: ServedModel
    agent: Agent
    place: Place
    asked: Asked  # without the conversation before
    _generation: Generation | None = attrs.field(init=False, default=None)
    _text: str = attrs.field(init=False, default="")

    async def begin(self) -> Generation:
        """Wait for the turn and submit it, once. To be cancelled costs nothing.

        Raises `AgentNotFoundError` for an agent that was deleted meanwhile, `InvalidRequestError` and what `submit` raises.
        """
        if self._generation is None:
            await self.place.wait()
            asked = attrs.evolve(self.asked, conversation=_joined(self.agent.conversation, self.asked.conversation))
            prompt = await self.model.encode(asked.conversation, self.agent.id)
            refuse_deleted(self.agent)
            if self.state.settings.log_prompts:
                log_prompt(asked.conversation)
            self._generation = submit(self.state, self.exchange, self.model, asked, prompt)
        return self._generation

    async def result(self) -> GenerationResult:
        """The whole turn. Raises what `begin` raises, and the error of a generation that failed."""
        result = await (await self.begin()).result()
        self._add(result.text)
        return result

    async def receive(self) -> Event:
        """See `EventSource`. Errors are events here, for the stream has begun."""
        try:
            generation = await self.begin()
        except SemanticError as error:
            return Failed(error)
        return self._heard(await generation.events.receive())

    def receive_nowait(self) -> Event:
        """See `EventSource`."""
        if self._generation is None:
            raise trio.WouldBlock
        return self._heard(self._generation.events.receive_nowait())

    def _heard(self, event: Event) -> Event:
        if isinstance(event, TokenEvent | Finished):
            self._text += event.text
        if isinstance(event, Finished):
            self._add(self._text)
        return event

    def _add(self, answer: str) -> None:
        """The turn is over: it is part of the conversation before its client hears so, and the next one may begin."""
        said = Conversation((*self.asked.conversation.messages, Message(Role.ASSISTANT, (Text(answer),))))
        self.agent.conversation = _joined(self.agent.conversation, said)
        self.place.leave()


def refuse_deleted(agent: Agent) -> None:
    """Raises `AgentNotFoundError` for an agent that was deleted since it was found."""
    if agent.is_deleted:
        raise AgentNotFoundError(agent.id)


async def sure_prompt(model: ServedModel, agent: Agent) -> Prompt:
    """What the next prompt of an agent begins with, whatever it is told; empty where there is no such thing.

    For an agent whose clients keep the conversation, what it has read and said.
    """
    if agent.history and not agent.conversation.messages:
        return Prompt(unpack(agent.history))
    one, other = [await model.encode(_joined(agent.conversation, Conversation((said,))), agent.id) for said in SAID_NEXT]
    alike = next((at for at, pair in enumerate(zip(one.tokens, other.tokens, strict=False)) if pair[0] != pair[1]), 0)
    return Prompt(one.tokens[:alike], min(one.head, alike))


def _joined(before: Conversation, after: Conversation) -> Conversation:
    return Conversation((*before.messages, *after.messages))
