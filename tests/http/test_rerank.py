"""The Rerank API as its clients read it."""

from typing import Any

import attrs
import pytest
import trio.testing

from semantic_trio.domain.embedding import EmbeddingForm
from semantic_trio.testing import FakeRunner
from tests.http.serving import Call, Served, post, running, served
from tests.http.test_embeddings import BlindRunner

EMBEDS = EmbeddingForm(is_approximate=False)
DOCUMENTS = ["sky", "sea", {"text": "a net at the harbour"}]


def embedding(form: EmbeddingForm = EMBEDS, **options: Any) -> Served:
    """A server whose model was made to embed."""
    return served(FakeRunner(), embeds=form, **options)


async def ask(server: Served, path: str = "/v1/rerank", **fields: Any) -> Call:
    given = {"model": "org/tiny", "query": "sea", "documents": DOCUMENTS}
    return await post(server.app, path, given | fields)


async def vector(server: Served, text: str) -> list[float]:
    call: Any = await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": text})
    found: list[float] = call.json["data"][0]["embedding"]
    return found


async def test_documents_come_by_the_cosine_of_their_vectors_the_most_relevant_first(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(embedding()) as server:
        answer: Any = (await ask(server)).json
        query = await vector(server, "sea")
        others = [await vector(server, text) for text in ("sky", "sea", "a net at the harbour")]

    cosines = [sum(a * b for a, b in zip(query, other, strict=True)) for other in others]
    assert [one["index"] for one in answer["results"]] == sorted(
        range(3), key=lambda place: -cosines[place]
    )
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx(
        sorted(cosines, reverse=True)
    )
    assert answer["results"][0] == {
        "index": 1,
        "relevance_score": pytest.approx(1),
        "document": {"text": "sea"},
    }
    assert (answer["object"], answer["model"]) == ("list", "org/tiny")
    assert answer["usage"] == {"prompt_tokens": 29, "total_tokens": 29}
    assert answer["id"].startswith("rerank-")


async def test_equal_documents_stay_in_the_order_of_the_request(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(embedding()) as server:
        answer: Any = (await ask(server, documents=["sea", "sky", "sea"])).json

    assert [one["index"] for one in answer["results"]] == [0, 2, 1]


@pytest.mark.parametrize(("top_n", "count"), [(None, 3), (0, 3), (1, 1), (2, 2), (50, 3)])
async def test_no_more_documents_come_than_are_wanted(
    top_n: int | None, count: int, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(embedding()) as server:
        answer: Any = (await ask(server, top_n=top_n)).json

    assert len(answer["results"]) == count
    assert answer["results"][0]["index"] == 1


@pytest.mark.parametrize(("wanted", "has_text"), [(None, True), (True, True), (False, False)])
async def test_documents_are_repeated_unless_the_client_has_no_use_for_them(
    wanted: bool | None, has_text: bool, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(embedding()) as server:
        answer: Any = (await ask(server, return_documents=wanted)).json

    assert {one["document"] is not None for one in answer["results"]} == {has_text}


async def test_the_model_reads_what_it_expects_before_a_query_and_before_a_document(
    autojump_clock: trio.testing.MockClock,
) -> None:
    form = attrs.evolve(EMBEDS, query_prompt="find: ", document_prompt="text: ")
    async with running(embedding(form)) as server:
        answer: Any = (await ask(server, query="sea", documents=["sea"])).json
        query, document = await vector(server, "find: sea"), await vector(server, "text: sea")

    [only] = answer["results"]
    assert only["relevance_score"] == pytest.approx(
        sum(a * b for a, b in zip(query, document, strict=True))
    )
    assert only["document"] == {"text": "sea"}
    assert answer["usage"]["prompt_tokens"] == len("find: sea" + "text: sea")


@pytest.mark.parametrize("path", ["/rerank", "/v2/rerank", "/v1/rerank/"])
async def test_clients_of_other_servers_find_it(
    path: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(embedding()) as server:
        answer: Any = (await ask(server, path)).json

    assert answer["results"][0]["index"] == 1


async def test_a_model_that_was_made_to_generate_ranks_nothing(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        made_to_generate = await ask(server)
    async with running(served(BlindRunner(), embeds=EMBEDS)) as server:
        blind = await ask(server)

    for call, message in (
        (made_to_generate, "it was made to generate, not to embed"),
        (blind, "cannot embed texts"),
    ):
        error: Any = call.json["error"]
        assert (call.status, error["param"]) == (400, "model")
        assert message in error["message"]


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"query": ""}, "query"),
        ({"query": "x" * 5000}, "query"),
        ({"documents": []}, "documents"),
        ({"documents": ["a"] * 2049}, "documents"),
        ({"documents": ["a", ""]}, "documents.1"),
        ({"documents": ["a", {"title": "b"}]}, "documents.1.text"),
        ({"documents": ["a", "x" * 5000]}, "documents.1"),
        ({"documents": ["a", 3]}, "documents.1"),
        ({"top_n": -1}, "top_n"),
        ({"rank_fields": ["title"]}, "rank_fields"),
    ],
)
async def test_what_is_wrong_is_named(
    fields: dict[str, Any], where: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(embedding()) as server:
        call = await ask(server, **fields)
    error: Any = call.json["error"]
    assert (call.status, error["param"]) == (400, where)


async def test_a_server_that_ends_ranks_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with running(embedding()) as server:
        await server.engine.drain(0)
        call = await ask(server)
    assert call.status == 503
