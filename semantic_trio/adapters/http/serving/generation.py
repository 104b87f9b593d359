"""The way from a conversation to a running generation, for all protocols.

Knows the order: find the model, encode the prompt, submit it, tie the generation to its request.
Knows nothing of wire formats.
"""

import functools
import secrets
import uuid
from collections.abc import Sequence

import attrs
import structlog
import trio

from semantic_trio.adapters.http.common.exchange import Exchange
from semantic_trio.adapters.http.common.identity import Identity
from semantic_trio.adapters.http.common.priority import priority_of
from semantic_trio.adapters.http.common.unreadable_content import refuse_unreadable_content
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.params import LONGEST_STOP, MOST_STOPS, GenerationParams
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.answer import Answer, Encoded, PlainReader
from semantic_trio.application.continuing import continuing
from semantic_trio.application.generation import Generation
from semantic_trio.domain.budget import enforced
from semantic_trio.domain.conversation import Conversation
from semantic_trio.domain.errors import InvalidRequestError, PoolExhaustedError, PromptTooLongError
from semantic_trio.domain.generation import GenerationRequest
from semantic_trio.domain.observation import GenerationEnded
from semantic_trio.domain.reuse import NOTHING_REUSED
from semantic_trio.domain.salt import Salt
from semantic_trio.domain.stopping import Thoughts
from semantic_trio.ports.observing import Observer
from semantic_trio.ports.text import AnswerReader

log = structlog.get_logger(__name__)

SEED_BITS = 63
# The seed of a client that wants another answer each time.
RANDOM = -1


async def generate(
    state: AppState, exchange: Exchange, params: GenerationParams
) -> tuple[ServedModel, Answer]:
    """Submit a conversation and return its model and its answer, which is closed with the exchange.

    Raises `ModelNotFoundError`, `InvalidRequestError` and what `submit` raises.
    """
    model, [answer] = await generate_several(state, exchange, params, 1)
    return model, answer


async def generate_several(
    state: AppState, exchange: Exchange, params: GenerationParams, count: int
) -> tuple[ServedModel, list[Answer]]:
    """Submit a conversation and return `count` answers to it, with seeds that follow each other.

    Raises as `generate` does.
    """
    name_agent(exchange, params.identity)
    model = await state.resolve(params.model, exchange.stack)
    encoded = await encode(state, model, params.conversation, model.salt(params.identity))
    return model, submit_several(state, exchange, model, params, encoded, count)


def name_agent(exchange: Exchange, identity: Identity) -> None:
    """Give every line that the request's task logs from now on the agent that the request names."""
    exchange.agent = identity.agent or ""
    if exchange.agent:
        structlog.contextvars.bind_contextvars(agent=exchange.agent)


def report_unreadable(state: AppState, exchange: Exchange, conversation: Conversation) -> None:
    """Keep for the response's headers what the model cannot read.

    Raises `InvalidRequestError` where the settings refuse such content.
    """
    if state.settings.refuse_unreadable:
        refuse_unreadable_content(conversation)
    exchange.unread = tuple(conversation.unread)


async def encode(
    state: AppState, model: ServedModel, conversation: Conversation, salt: Salt
) -> Encoded:
    """Encode a conversation as a prompt, observe how long its tokens took, and log its text where
    the operator asked for that.

    Raises as `ServedModel.encode` does.
    """
    encoded = await model.encode(conversation, salt)
    state.metrics.tokenized(encoded.tokenization_seconds)
    if state.settings.log_prompts:
        log.info(
            "prompt",
            messages=[(message.role.value, message.text) for message in conversation.messages],
        )
    return encoded


def log_texts(prompts: Sequence[str]) -> None:
    """Log prompts that are plain texts. Called only where the operator asked for that."""
    log.info("prompt", texts=list(prompts))


def submit_several(
    state: AppState,
    exchange: Exchange,
    model: ServedModel,
    params: GenerationParams,
    encoded: Encoded,
    count: int,
) -> list[Answer]:
    """Submit one prompt `count` times, with seeds that follow each other.

    Raises as `submit` does; answers submitted before end with the exchange.
    """
    seed = _seed(params)
    if count > 1:
        model.engine.refuse_when_full(count, priority_of(exchange.headers, params.service_tier))
    return [
        submit(state, exchange, model, attrs.evolve(params, seed=seed + number), encoded)
        for number in range(count)
    ]


def submit(
    state: AppState,
    exchange: Exchange,
    model: ServedModel,
    params: GenerationParams,
    encoded: Encoded,
) -> Answer:
    """Submit a prompt and return its answer, which is closed with the exchange.

    Raises `PromptTooLongError`, `InvalidRequestError` and what `Engine.submit` raises.
    """
    exchange.model = model.card.id
    name_agent(exchange, params.identity)
    _refuse_stop_strings(params.stop_strings)
    reader = _reader(model, encoded)
    request = _request(exchange.request_id, model, params, encoded, reader.thoughts)
    request = attrs.evolve(
        request, priority=priority_of(exchange.headers, params.service_tier), trace=exchange.trace
    )
    generation = _submitted(model, request, params.prompt_field)
    exchange.generations.append(generation)
    exchange.stack.callback(_report_end, state.observer, generation)
    answer = Answer(
        generation,
        encoded,
        reader,
        model.engine.memory,
        functools.partial(_new_id, params.call_prefix),
        ends_with_call=encoded.conversation.choice.is_single,
        keeps_scores=params.top_logprobs is not None,
    )
    exchange.stack.callback(answer.close)
    return answer


def _report_end(observer: Observer, generation: Generation) -> None:
    """Notify the observer of a generation that its request has released."""
    observer.observe(
        GenerationEnded(
            request_id=generation.request.request_id,
            agent=(
                generation.agent.id if generation.agent is not None else generation.request.agent
            )
            or "",
            submitted_at=generation.submitted_at,
            started_at=generation.started_at,
            stamps=tuple(generation.stamps),
            closed_at=trio.current_time(),
            reuse=generation.reuse or NOTHING_REUSED,
            priority=generation.request.priority,
            trace=generation.request.trace,
        )
    )


def _refuse_stop_strings(stop_strings: Sequence[str]) -> None:
    """Raise `InvalidRequestError` for more or longer stop strings than can be searched for."""
    if len(stop_strings) > MOST_STOPS or any(len(stop) > LONGEST_STOP for stop in stop_strings):
        raise InvalidRequestError(
            f"at most {MOST_STOPS} stop strings of at most {LONGEST_STOP} characters",
            "stop",
            quotes=False,
        )


def _reader(model: ServedModel, encoded: Encoded) -> AnswerReader:
    """Return the reader of an answer: of text alone where the prompt is no conversation."""
    conversation = encoded.conversation
    if not conversation.messages:
        return PlainReader()
    return continuing(
        model.codec.reader(conversation, encoded.prompt.opening), conversation.prefill
    )


def _request(
    request_id: str,
    model: ServedModel,
    params: GenerationParams,
    encoded: Encoded,
    thoughts: Thoughts | None,
) -> GenerationRequest:
    prompt, limit = encoded.prompt, params.max_tokens
    return GenerationRequest(
        request_id=request_id,
        prompt=prompt.tokens,
        max_tokens=model.card.context_length if limit is None else limit,
        seed=_seed(params),
        sampling=params.sampling.params(model.card.sampling),
        steering=params.steering,
        grammar=encoded.grammar if limit is None else enforced(encoded.grammar, limit),
        top_logprobs=params.top_logprobs or 0,
        stop_strings=tuple(stop for stop in params.stop_strings if stop),
        thoughts=thoughts,
        stop_tokens=model.codec.stop_tokens,
        salt=encoded.salt,
        agent=params.identity.agent,
        is_ordered=params.identity.is_ordered,
        is_private=params.is_private,
        responses=params.responses,
        thinking=prompt.thinking,
        boundaries=(prompt.head,) if prompt.head else (),
        breakpoints=prompt.breakpoints,
    )


def _submitted(model: ServedModel, request: GenerationRequest, prompt_field: str) -> Generation:
    """Submit a request to the engine.

    A `PromptTooLongError` names the field that the prompt is made of.
    """
    try:
        return model.engine.submit(request, model.codec.decoder())
    except PromptTooLongError as error:
        raise attrs.evolve(error, field=prompt_field) from error
    except (
        PoolExhaustedError
    ) as error:  # too long for the whole memory: to a client that is one more bound on its prompt
        raise PromptTooLongError(
            len(request.prompt), model.engine.memory.longest_row, prompt_field
        ) from error


def _seed(params: GenerationParams) -> int:
    """Return the seed of an answer: a random one where none is given, or -1, as on other
    servers.
    """
    return (
        secrets.randbits(SEED_BITS)
        if params.seed in {None, RANDOM}
        else params.seed % (1 << SEED_BITS)
    )


def _new_id(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex}"
