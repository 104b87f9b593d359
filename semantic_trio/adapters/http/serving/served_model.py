"""A served model, as handlers see it: its card, and the way from requests to tokens and grammars.

Knows how long texts take, and keeps long work off the event loop. Knows nothing of wire formats.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TypeVar, TypeVarTuple

import attrs
import trio

from semantic_trio.adapters.http.common.identity import Identity
from semantic_trio.adapters.http.serving.dedicated_threads import DedicatedThreads
from semantic_trio.application.adapters import Adapter, Adapters
from semantic_trio.application.answer import Encoded
from semantic_trio.application.archives import Archives
from semantic_trio.application.engine import Engine
from semantic_trio.application.persistence import Persistence
from semantic_trio.application.threads import InThread
from semantic_trio.domain.canonical import canonical
from semantic_trio.domain.conversation import Conversation, Tool
from semantic_trio.domain.conversation_digests import chain
from semantic_trio.domain.embedding import batches
from semantic_trio.domain.errors import (
    DrainingError,
    GrammarError,
    InvalidRequestError,
    ModelNotFoundError,
    PromptTooLongError,
)
from semantic_trio.domain.model_card import ModelCard
from semantic_trio.domain.salt import NO_ADAPTER, NO_SALT, Salt, adapted
from semantic_trio.domain.steering import Grammar
from semantic_trio.domain.token_histories import TokenHistories
from semantic_trio.ports.text import TextCodec

# Characters above which a conversation is encoded in a worker thread: a hop costs 40 us, 16,000
# characters about 5 ms of the event loop.
ENCODE_IN_LOOP_CHARACTERS = 16_000
# Prompts encoded at the same time: more would only take turns at the interpreter's lock.
ENCODERS = 2
# Grammars compiled at the same time, and seconds one may take: most take milliseconds, and some
# schemas would take for ever.
COMPILERS, COMPILE_SECONDS = 4, 20.0
# Batches of texts embedded at the same time: each has its next chunk queued on the device, and
# generations wait for all of these chunks.
EMBEDDERS = 1

Arguments = TypeVarTuple("Arguments")
Result = TypeVar("Result")


@attrs.frozen(eq=False)
class ServedModel:
    """A model, its engine, and its text codec; for a request that names an adapter, the model with
    that adapter.
    """

    card: ModelCard
    engine: Engine
    codec: TextCodec
    persistence: Persistence
    # tests on virtual time compile grammars in line
    compilers: InThread = attrs.field(factory=lambda: DedicatedThreads(COMPILERS))
    adapters: Adapters | None = None  # None: the server has none
    adapter: Adapter | None = None  # that computes the answers
    _encoders: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(ENCODERS))
    _embedders: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(EMBEDDERS))

    @property
    def bytes(self) -> int:
        """See `Resident.bytes`."""
        return (
            self.card.weight_bytes
            + self.engine.memory.store.pool.total_bytes
            + (self.adapters.bytes if self.adapters is not None else 0)
        )

    async def drain(self, grace_seconds: float, error: DrainingError | None = None) -> None:
        """See `Resident.drain`."""
        await self.engine.drain(grace_seconds, error)

    @property
    def token_histories(self) -> TokenHistories:
        """Token history of conversations."""
        return self.engine.memory.token_histories

    @property
    def archives(self) -> Archives:
        """Import and export of agents."""
        return Archives(self.persistence)

    def salt(self, identity: Identity) -> Salt:
        """Return the salt of a request: the client's own, else that of the agent it names; in
        either case with the adapter that computes.
        """
        known = self.engine.memory.agents.find(identity.agent) if identity.agent else None
        digest = self.adapter.digest if self.adapter is not None else NO_ADAPTER
        return adapted(identity.salt or (known.salt if known else NO_SALT), digest)

    async def adapted(
        self, name: str, stack: ExitStack, is_short: Callable[[], bool]
    ) -> "ServedModel":
        """Return the model with an adapter, which is in memory until the stack is closed; others
        that no request uses are unloaded while memory is short.

        Raises as `Adapters.acquire` does.
        """
        if self.adapters is None:
            raise ModelNotFoundError(
                f"{self.card.id}:{name}", "the server has no adapters: set adapters_dir"
            )
        adapter = await self.adapters.acquire(name, stack)
        await self.adapters.make_room(is_short)
        return attrs.evolve(
            self, adapter=adapter, card=attrs.evolve(self.card, id=f"{self.card.id}:{name}")
        )

    async def encode(self, conversation: Conversation, salt: Salt) -> Encoded:
        """Encode a conversation in canonical order; the prompt repeats the exact tokens of its
        history, where that is known under the salt.

        Raises `PromptTooLongError` before tokenising where no tokenisation of the text can fit the
        context; `InvalidRequestError` where the model's template refuses the conversation, or no
        answer can match the schema; `GrammarError` where the schema is too complex.
        """
        is_large = conversation.characters > ENCODE_IN_LOOP_CHARACTERS
        ordered = await self._run(is_large, canonical, conversation)
        self._refuse_too_long(ordered.prompt_characters)
        digests = await self._run(is_large, chain, ordered, salt)
        began = trio.current_time()
        prompt = await self._run(
            is_large, self.codec.encode_prompt, ordered, self.token_histories.known(digests)
        )
        seconds = trio.current_time() - began
        demanded = _with_named_tool(ordered, conversation.tools)
        grammar = (
            await self._grammar(demanded, prompt.opening)
            if demanded.demands_form or demanded.thought_budget is not None
            else None
        )
        return Encoded(ordered, digests, prompt, conversation.tools, grammar, salt, seconds)

    async def encode_text(self, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
        """Return the tokens of a text; tokens are returned unchanged.

        Raises `InvalidRequestError` for a text without tokens, `PromptTooLongError` before
        tokenising for a text that cannot fit the context.
        """
        if isinstance(prompt, tuple):
            return prompt
        self._refuse_too_long(len(prompt))
        await trio.lowlevel.checkpoint()  # a request may have thousands of texts
        tokens = await self._run(
            len(prompt) > ENCODE_IN_LOOP_CHARACTERS, self.codec.encode_text, prompt
        )
        if not tokens:
            raise InvalidRequestError("an empty text cannot be read", "prompt", quotes=False)
        return tokens

    def _refuse_too_long(self, characters: int) -> None:
        """Raise `PromptTooLongError` for a text with more bytes than a context of the longest
        tokens: tokenising takes 200 times its bytes.
        """
        longest, limit = self.codec.longest_token_bytes, self.card.context_length
        fewest_tokens = math.ceil(characters / longest) if longest else 0
        if fewest_tokens > limit:
            raise PromptTooLongError(fewest_tokens, limit)

    async def _grammar(self, conversation: Conversation, opening: str) -> Grammar | None:
        """Compile the grammar of an answer. Raises `GrammarError` if that takes too long."""
        with trio.move_on_after(COMPILE_SECONDS):
            return await self.compilers(self.codec.grammar, conversation, opening)
        raise GrammarError(f"compiling the schema took longer than {COMPILE_SECONDS:.0f} s")

    async def embed(self, texts: Sequence[tuple[int, ...]]) -> list[tuple[float, ...]]:
        """Return the vectors of texts.

        Requests take turns, a batch of texts at a time. Raises `StepFailedError`.
        """
        vectors: dict[int, tuple[float, ...]] = {}
        for batch in batches([len(text) for text in texts]):
            async with self._embedders:
                found = await self.engine.runner.embed(
                    [texts[place] for place in batch], self.card.embeds.pooling
                )
            vectors |= zip(batch, found, strict=True)
        return [vectors[place] for place in range(len(texts))]

    async def _run(
        self, is_large: bool, function: Callable[[*Arguments], Result], *arguments: *Arguments
    ) -> Result:
        if is_large:
            return await trio.to_thread.run_sync(function, *arguments, limiter=self._encoders)
        return function(*arguments)


def _with_named_tool(ordered: Conversation, offered: Sequence[Tool]) -> Conversation:
    """Return the conversation with the tool that has to be called, even if the prompt does not list
    that tool.
    """
    told = {tool.name for tool in ordered.tools}
    named = tuple(
        tool for tool in offered if tool.name == ordered.choice.name and tool.name not in told
    )
    return attrs.evolve(ordered, tools=(*ordered.tools, *named))
