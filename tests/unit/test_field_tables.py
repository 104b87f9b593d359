"""The tables of request fields in the manual are true: what they call read, ignored and refused is
that.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from semantic_trio.adapters.http.agents import request as agents
from semantic_trio.adapters.http.anthropic import request as anthropic
from semantic_trio.adapters.http.common.compatibility_fields import refuse_unsupported
from semantic_trio.adapters.http.common.faults import Fault
from semantic_trio.adapters.http.common.json_decoding import decode
from semantic_trio.adapters.http.openai.chat import request as chat
from semantic_trio.adapters.http.openai.completions import request as completions
from semantic_trio.adapters.http.openai.embeddings import routes as embeddings
from semantic_trio.adapters.http.openai.responses import request as responses
from semantic_trio.adapters.http.rerank import routes as rerank
from semantic_trio.domain.errors import InvalidRequestError

MANUAL = Path(__file__).parents[2] / "docs" / "fields.md"
SAID = [{"role": "user", "content": "hi"}]


@attrs.frozen
class Api:
    """A request's class, the least request, and its meaning."""

    request: type
    least: dict[str, Any]
    meaning: Callable[[Any], object]

    def of(self, **fields: Any) -> object:
        """The meaning of the least request with more fields.

        Raises `Fault` and `InvalidRequestError`.
        """
        return self.meaning(decode(json.dumps(self.least | fields).encode(), self.request))


def _response(request: responses.ResponseRequest) -> object:
    responses.check(request)
    return responses.generation_params(request, ())


def _embeddings(request: embeddings.EmbeddingsRequest) -> object:
    # its text tells where it lies in memory
    return {**attrs.asdict(request), "input": bytes(request.input)}


def _rerank(request: rerank.RerankRequest) -> object:
    refuse_unsupported(request)
    return request


APIS = {
    "Messages": Api(
        anthropic.MessagesRequest,
        {"model": "m", "max_tokens": 5, "messages": SAID},
        anthropic.generation_params,
    ),
    "Tokens": Api(
        anthropic.CountTokensRequest, {"model": "m", "messages": SAID}, anthropic.conversation
    ),
    "Chat": Api(chat.ChatRequest, {"model": "m", "messages": SAID}, chat.generation_params),
    "Completions": Api(
        completions.CompletionRequest, {"model": "m", "prompt": "hi"}, completions.generation_params
    ),
    "Responses": Api(responses.ResponseRequest, {"model": "m", "input": "hi"}, _response),
    "Embeddings": Api(embeddings.EmbeddingsRequest, {"model": "m", "input": "hi"}, _embeddings),
    "Rerank": Api(
        rerank.RerankRequest, {"model": "m", "query": "hi", "documents": ["hi"]}, _rerank
    ),
    "Agents": Api(
        agents.AgentTurn,
        {"message": "hi"},
        lambda request: agents.generation_params(request, "m", "ada"),
    ),
    "`POST /v1/agents`": Api(agents.CreateAgent, {}, repr),
    "`POST /v1/agents/{id}/fork`": Api(agents.ForkAgent, {}, repr),
}


def _rows() -> Iterator[tuple[str, str, str]]:
    """Each cell of the tables: API, field, what becomes of it."""
    names: list[str] = []
    for line in MANUAL.read_text().splitlines():
        cells = (
            [cell.strip() for cell in line.strip("|").split("|")] if line.startswith("|") else []
        )
        if cells and cells[0] == "field":
            names = cells
        elif cells and cells[0].startswith("`"):
            yield from (
                (api, cells[0].strip("`"), state)
                for api, state in zip(names[1:-1], cells[1:-1], strict=True)
            )


ROWS = list(_rows())
every_api = pytest.mark.parametrize("api", APIS)


def fields(api: str, *states: str) -> list[str]:
    """The fields of an API in these states, as the manual has them."""
    return [field for one, field, state in ROWS if one == api and state in states]


@pytest.mark.parametrize("api", ["Messages", "Tokens", "Chat", "Responses", "`POST /v1/agents`"])
def test_tools_are_bounded_in_every_api(api: str) -> None:
    tool = {"name": "f", "input_schema": {"type": "object"}}

    assert APIS[api].of(tools=[tool] * 4_096)
    with pytest.raises(Fault, match=r"tools: .* <= 4096"):
        APIS[api].of(tools=[tool] * 4_097)


@pytest.mark.parametrize("api", ["Messages", "Tokens", "Chat", "Agents"])
def test_messages_are_bounded_in_every_api(api: str) -> None:
    with pytest.raises(Fault, match=r"messages: .* <= 20000"):
        APIS[api].of(messages=SAID * 20_001)


def test_every_cell_is_a_known_word_and_every_column_an_api() -> None:
    assert {state for _, _, state in ROWS} == {"read", "ignored", "refused", ""}
    assert {api for api, _, _ in ROWS} == set(APIS)


@every_api
def test_the_fields_of_the_manual_are_those_of_the_code(api: str) -> None:
    assert sorted(fields(api, "read", "refused")) == sorted(
        field.name for field in attrs.fields(APIS[api].request)
    )


@every_api
def test_a_field_that_is_ignored_changes_nothing(api: str) -> None:
    for field in fields(api, "ignored", ""):
        for value in ({"a": 1}, ["a"], "a", 3):
            assert APIS[api].of(**{field: value}) == APIS[api].of(), field


@pytest.mark.parametrize(
    ("api", "field"), [(api, field) for api, field, state in ROWS if state == "refused"]
)
def test_a_field_that_is_refused_is_named(api: str, field: str) -> None:
    assert APIS[api].of(**{field: None}) == APIS[api].of(), "null demands nothing"
    for value in ({"a": 1}, ["a"], "a", 3):
        with pytest.raises((InvalidRequestError, Fault)) as caught:
            APIS[api].of(**{field: value})
        assert isinstance(caught.value, InvalidRequestError | Fault)
        assert caught.value.field == field
