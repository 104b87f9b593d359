"""From a conversation to a running generation, for every protocol.

Knows the order: find the model, encode, submit, tie the generation to its request. Knows nothing of wire formats.
"""

import functools
import secrets
import uuid
from collections.abc import Sequence

import attrs
import structlog

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.unreadable_content import check_readable
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.params import Asked
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.answer import Answer, Encoded, PlainReader
from semantic_trio.application.continuing import continuing
from semantic_trio.domain.budget import enforced
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.errors import InvalidRequestError, PoolExhaustedError, PromptTooLongError
from semantic_trio.domain.generation import GenerationRequest

log = structlog.get_logger(__name__)

SEED_BITS = 63
# The seed of a client that wants another answer each time.
RANDOM = -1
# Stop strings are looked for in every piece of text, in the event loop.
MOST_STOPS, LONGEST_STOP = 64, 1000


async def begin(state: AppState, asked: Asked) -> tuple[ServedModel, Answer]:
    """Submit a conversation; its answer ends with its request, however that ends.

    Raises `ModelNotFoundError`, `InvalidRequestError` and what `submit` raises.
    """
    model, [answer] = await begin_all(state, asked, 1)
    return model, answer


async def begin_all(state: AppState, asked: Asked, count: int) -> tuple[ServedModel, list[Answer]]:
    """The same with several answers to one conversation; the seed of each is one more than that before. Raises as `begin` does."""
    model = state.resolve(asked.model)
    note_unread(state, current.get(), asked.conversation)
    encoded = await model.encode(asked.conversation, model.salt(asked.identity))
    if state.settings.log_prompts:
        log_prompt(asked.conversation)
    return model, submit_all(state, model, asked, encoded, count)


def note_unread(state: AppState, exchange: Exchange, conversation: Conversation) -> None:
    """Note for the answer's headers what the model cannot read. Raises `InvalidRequestError` where that is to be refused."""
    if state.settings.refuse_unreadable:
        check_readable(conversation)
    exchange.unread = tuple(conversation.unread)


def submit_all(state: AppState, model: ServedModel, asked: Asked, encoded: Encoded, count: int) -> list[Answer]:
    """Submit one prompt as often as answers are wanted. Raises what `submit` raises, and then those submitted end with the request."""
    seed = _seed(asked)
    if count > 1:
        model.engine.refuse_when_full(count)
    return [submit(state, current.get(), model, attrs.evolve(asked, seed=seed + number), encoded) for number in range(count)]


def submit(state: AppState, exchange: Exchange, model: ServedModel, asked: Asked, encoded: Encoded) -> Answer:
    """Submit a prompt; its answer ends with the exchange. Raises `PromptTooLongError`, `InvalidRequestError`, what `Engine.submit` raises."""
    exchange.model, exchange.agent = model.card.id, asked.identity.agent or ""
    prompt, codec = encoded.prompt, model.codec
    if len(asked.stop_strings) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in asked.stop_strings):
        raise InvalidRequestError(f"at most {MOST_STOPS} stop strings of at most {LONGEST_STOP} characters", "stop", quotes=False)
    conversation = encoded.conversation
    reader = continuing(codec.reader(conversation, prompt.opening), conversation.prefill) if conversation.messages else PlainReader()
    request = GenerationRequest(
        request_id=exchange.request_id,
        prompt=prompt.tokens,
        max_tokens=model.card.context_length if asked.max_tokens is None else asked.max_tokens,
        seed=_seed(asked),
        sampling=asked.sampling.params(model.card.sampling),
        steering=asked.steering,
        grammar=encoded.grammar if asked.max_tokens is None else enforced(encoded.grammar, asked.max_tokens),
        top_logprobs=asked.top_logprobs or 0,
        stop_strings=tuple(stop for stop in asked.stop_strings if stop),
        thoughts=reader.thoughts,
        stop_tokens=codec.stop_tokens,
        salt=encoded.salt,
        agent=asked.identity.agent,
        is_ordered=asked.identity.is_ordered,
        is_private=asked.is_private,
        responses=asked.responses,
        thinking=prompt.thinking,
        marks=(prompt.head,) if prompt.head else (),
        breakpoints=prompt.breakpoints,
    )
    try:
        generation = model.engine.submit(request, codec.decoder())
    except PromptTooLongError as error:
        raise attrs.evolve(error, field=asked.prompt_field) from error
    except PoolExhaustedError as error:  # with all of the memory to itself: to a client that is one more bound on its prompt
        raise PromptTooLongError(len(prompt.tokens), model.engine.memory.longest_row, asked.prompt_field) from error
    exchange.generations.append(generation)
    exchange.stack.callback(state.metrics.generation_closed, generation)
    answer = Answer(
        generation,
        encoded,
        reader,
        model.said,
        functools.partial(_new_id, asked.call_prefix),
        ends_with_call=conversation.choice.is_single,
        keeps_scores=asked.top_logprobs is not None,
    )
    exchange.stack.callback(answer.close)
    return answer


def _seed(asked: Asked) -> int:
    """The seed of an answer; a random one where none is given, or -1, as other servers have it."""
    return secrets.randbits(SEED_BITS) if asked.seed in {None, RANDOM} else asked.seed % (1 << SEED_BITS)


def _new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"


def log_text(prompts: Sequence[str]) -> None:
    """Log texts that are to be gone on with: only where the operator asked for it."""
    log.info("prompt", texts=list(prompts))


def log_prompt(conversation: Conversation) -> None:
    """Log what is said: only where the operator asked for it."""
    log.info("prompt", messages=[(message.role.value, message.text) for message in conversation.messages])
