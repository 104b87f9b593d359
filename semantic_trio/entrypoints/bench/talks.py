"""Conversations of one round: begun on one server, gone on with after its restart."""

from collections.abc import Sequence

import attrs

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.bench.client import Client
from semantic_trio.entrypoints.bench.measures import GrowingConversation
from semantic_trio.entrypoints.bench.prompts import Prompts
from semantic_trio.entrypoints.bench.results import Turns

# The conversation whose length is given in words. Others are named by their tokens, about.
FIRST = 0


@attrs.define(eq=False)
class Talks:
    """Conversations by name, their turns so far, and notes about those that could not be had."""

    prompts: Prompts
    progress: Progress
    where: str  # the round, for the progress
    turns: dict[int, Turns] = attrs.field(init=False, factory=dict)
    notes: list[str] = attrs.field(init=False, factory=list)
    _talks: dict[int, GrowingConversation] = attrs.field(init=False, factory=dict)

    async def begin(self, client: Client, name: int, words: int) -> None:
        """Have a first turn of so many words and a next one.

        Raises `InvalidRequestError` where the server does not answer.
        """
        self.progress.step(f"{self.where}: a conversation of {words:,} words")
        conversation = GrowingConversation()
        cold = await conversation.turn(
            client, self.prompts.opening(words, *([name] if name else []))
        )
        self.turns[name] = Turns(
            cold, await conversation.turn(client, self.prompts.question("next", name)), None
        )
        self._talks[name] = conversation

    async def begin_contexts(self, client: Client, contexts: Sequence[int]) -> None:
        """Begin conversations of about so many tokens each.

        One that the server refuses, as too long for its model, is noted and left out.
        """
        first = self._talks[FIRST].messages[0]["content"]
        words_per_token = len(first.split()) / self.turns[FIRST].cold.prompt_tokens
        for tokens in contexts:
            try:
                await self.begin(client, tokens, round(tokens * words_per_token))
            except InvalidRequestError as error:
                self.notes.append(f"no conversation of {tokens:,} tokens: {error}")

    async def restart(self, client: Client) -> None:
        """Have one more turn of every conversation, on a server that has been started again."""
        for name, conversation in self._talks.items():
            restarted = await conversation.turn(client, self.prompts.question("restarted", name))
            self.turns[name] = attrs.evolve(self.turns[name], restarted=restarted)
