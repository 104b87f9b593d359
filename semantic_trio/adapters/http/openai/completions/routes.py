"""Routes of the Completions API, which continues texts without a conversation.

Knows nothing of how an answer is generated.
"""

import functools
from collections.abc import Sequence

from quart import Blueprint, Response
from quart_schema import document_request, document_response

from semantic_trio.adapters.http.common.exchange import Exchange, current
from semantic_trio.adapters.http.common.faults import OpenAIError
from semantic_trio.adapters.http.common.json_decoding import decode, parsed
from semantic_trio.adapters.http.common.openapi import document_faults, document_stream
from semantic_trio.adapters.http.common.priority import priority_of
from semantic_trio.adapters.http.openai.common.choices_reply import choices_reply
from semantic_trio.adapters.http.openai.common.completion_chunks import (
    Chunks,
    CompletionSignals,
    Head,
)
from semantic_trio.adapters.http.openai.common.request_fields import MOST_CHOICES
from semantic_trio.adapters.http.openai.common.text_inputs import texts_of
from semantic_trio.adapters.http.openai.completions.request import (
    CompletionRequest,
    generation_params,
)
from semantic_trio.adapters.http.openai.completions.stream import CompletionEncoder
from semantic_trio.adapters.http.openai.completions.text_completion import (
    CompletionAnswer,
    TextCompletionFormat,
    text_completion,
)
from semantic_trio.adapters.http.serving.app_state import AppState
from semantic_trio.adapters.http.serving.generation import log_texts, submit_several
from semantic_trio.adapters.http.serving.params import GenerationParams
from semantic_trio.adapters.http.serving.responding import Reply, respond
from semantic_trio.adapters.http.serving.served_model import ServedModel
from semantic_trio.application.answer import Answer, Encoded
from semantic_trio.application.choices import Chosen
from semantic_trio.domain.conversation import NOTHING_SAID
from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.domain.prompt import Prompt


def routes(state: AppState) -> Blueprint:
    """Build the route `/v1/completions`."""
    blueprint = Blueprint("completions", __name__)

    @blueprint.post("/v1/completions")
    @document_request(CompletionRequest)
    @document_response(CompletionAnswer, 200)
    @document_stream
    @document_faults(OpenAIError, 400, 401, 403, 404, 408, 413, 429, 500, 503)
    async def create_completion() -> Response:
        """Continue texts, whole or as a stream of chunks."""
        exchange = current.get()
        request, params = await parsed(exchange.body, functools.partial(_parsed, exchange))
        begin = functools.partial(_begin, state, exchange, request, params)
        return await respond(
            state, params.model, begin, CompletionSignals(), is_streamed=request.stream
        )

    return blueprint


async def _begin(
    state: AppState, exchange: Exchange, request: CompletionRequest, params: GenerationParams
) -> Reply[Chosen]:
    model = await state.resolve(params.model, exchange.stack)
    texts = texts_of(request.prompt, MOST_CHOICES, model.card.vocabulary, "prompt")
    with state.tokenizing():
        prompts = [await model.encode_text(text) for text in texts]
    if state.settings.log_prompts:
        log_texts([model.codec.decode(prompt) for prompt in prompts])
    answers = _answers(state, exchange, model, params, prompts, request.choices)
    answer_format = _format(request, model, prompts)

    def encoder() -> CompletionEncoder:
        return CompletionEncoder(
            answer_format,
            Chunks("text_completion", answer_format.head, request.wants_usage),
            answers,
        )

    return choices_reply(answers, encoder, functools.partial(text_completion, answer_format))


def _parsed(exchange: Exchange, body: bytes) -> tuple[CompletionRequest, GenerationParams]:
    request = decode(body, CompletionRequest)
    return request, generation_params(request, request.identity(exchange.headers))


def _answers(
    state: AppState,
    exchange: Exchange,
    model: ServedModel,
    params: GenerationParams,
    prompts: Sequence[tuple[int, ...]],
    count: int,
) -> list[Answer]:
    """Submit each prompt `count` times; the answers to one prompt follow each other."""
    total = len(prompts) * count
    if total > MOST_CHOICES:
        raise InvalidRequestError(
            (
                f"{len(prompts)} prompts with {count} answers each: {MOST_CHOICES} answers may be "
                "asked for at once"
            ),
            "n",
            quotes=False,
        )
    model.engine.refuse_when_full(total, priority_of(exchange.headers, params.service_tier))
    salt = model.salt(params.identity)
    encoded = (Encoded(NOTHING_SAID, (), Prompt(prompt), salt=salt) for prompt in prompts)
    return [
        answer
        for one in encoded
        for answer in submit_several(state, exchange, model, params, one, count)
    ]


def _format(
    request: CompletionRequest, model: ServedModel, prompts: Sequence[tuple[int, ...]]
) -> TextCompletionFormat:
    return TextCompletionFormat(
        head=Head.new("cmpl", model.card.id),
        echoes=tuple(model.codec.decode(prompt) if request.echo else "" for prompt in prompts),
        per_prompt=request.choices,
        token_bytes=None if request.logprobs is None else model.codec.token_bytes,
    )
