"""The Embeddings API as its clients read it."""

import base64
import math
import struct
from typing import Any

import pytest
import trio.testing
from openai.types import CreateEmbeddingResponse

from semantic_trio.adapters.scripted.token_runner import EMBEDDING_SIZE
from semantic_trio.testing import FakeRunner
from tests.http.serving import Served, get, post, running, served


class BlindRunner(FakeRunner):
    """Its model makes no vectors."""

    @property
    def embedding_size(self) -> int:
        return 0


async def asked(server: Served, given: object, **fields: Any) -> list[list[float]]:
    call = await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": given, **fields})
    assert call.status == 200, call.content
    answer = CreateEmbeddingResponse.model_validate(call.json)
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return [one.embedding for one in answer.data]


async def test_each_text_has_a_vector_of_length_one(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        one, other, same = await asked(server, ["sea", "sky", list(b"sea")])
        [alone] = await asked(server, "sea")
        [tokens] = await asked(server, list(b"sea"))

    assert len(one) == EMBEDDING_SIZE
    assert math.hypot(*one) == pytest.approx(1)
    assert one == same == alone == tokens
    assert one != other


async def test_base64_is_the_same_in_little_endian(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        [plain] = await asked(server, "sea")
        call = await post(
            server.app,
            "/v1/embeddings",
            {"model": "org/tiny", "input": "sea", "encoding_format": "base64"},
        )

    told: Any = call.json["data"]
    assert struct.unpack(
        f"<{EMBEDDING_SIZE}f", base64.b64decode(told[0]["embedding"])
    ) == pytest.approx(plain)
    assert call.json["usage"] == {"prompt_tokens": 3, "total_tokens": 3}


async def test_fewer_dimensions_are_the_front_of_length_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        [whole], [cut] = await asked(server, "sea"), await asked(server, "sea", dimensions=3)

    assert math.hypot(*cut) == pytest.approx(1)
    assert cut == pytest.approx([number / math.hypot(*whole[:3]) for number in whole[:3]])


async def test_the_list_of_models_tells_that_they_are_approximate(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        models: Any = (await get(server.app, "/v1/models")).json
    async with running(served(BlindRunner())) as server:
        blind: Any = (await get(server.app, "/v1/models/tiny")).json

    assert models["data"][0]["embeddings"] == {
        "dimensions": EMBEDDING_SIZE,
        "pooling": "mean",
        "is_approximate": True,
    }
    assert blind["embeddings"] is None


async def test_tokens_of_another_model_are_refused_with_what_to_do(
    autojump_clock: trio.testing.MockClock,
) -> None:
    beyond, misspelt = [9906, 1917], [0xC3, 0x28] * 20
    async with running(served(FakeRunner(), vocabulary=256)) as server:
        calls = [
            await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": given})
            for given in (beyond, [list(b"sea"), misspelt])
        ]

    for call in calls:
        error: Any = call.json["error"]
        assert (call.status, error["param"]) == (400, "input")
        assert "check_embedding_ctx_length=False" in error["message"]


@pytest.mark.parametrize("cut", [(0, 0), (1, 0), (2, 1), (3, 2)])
async def test_tokens_of_a_text_that_was_cut_in_a_character_are_embedded(
    cut: tuple[int, int], autojump_clock: trio.testing.MockClock
) -> None:
    whole = list("\N{SNOWMAN}\N{GRINNING FACE} snow \N{SNOWMAN}".encode())
    async with running(served(FakeRunner(), vocabulary=256)) as server:
        [vector] = await asked(server, whole[cut[0] : len(whole) - cut[1]])

    assert math.hypot(*vector) == pytest.approx(1)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": ["a", ""]}, "input"),
        ({"input": ["a", 3]}, "input"),
        ({"input": [999]}, "input"),
        ({"input": "x" * 5000}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": EMBEDDING_SIZE + 1}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_is_wrong_is_named(
    fields: dict[str, Any], where: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner(), vocabulary=256)) as server:
        call = await post(
            server.app, "/v1/embeddings", {"model": "org/tiny", "input": "sea", **fields}
        )
    error: Any = call.json["error"]
    assert call.status == 400
    assert (error["param"] or "").startswith(where)


async def test_a_text_that_would_not_fit_into_the_memory_is_refused(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner(), budget_bytes=1 << 13)) as server:
        room = server.engine.memory.longest_row
        fits, too_long = [
            await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": "x" * size})
            for size in (room, room + 1)
        ]
    error: Any = too_long.json["error"]
    assert fits.status == 200
    assert (too_long.status, error["param"]) == (400, "input")
    assert f"{room} tokens at most" in error["message"]


async def test_a_model_that_cannot_says_so(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(BlindRunner())) as server:
        call = await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": "sea"})
    error: Any = call.json["error"]
    assert (call.status, error["param"]) == (400, "model")
    assert "cannot embed" in error["message"]


async def test_a_server_that_ends_embeds_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        await server.engine.drain(0)
        call = await post(server.app, "/v1/embeddings", {"model": "org/tiny", "input": "sea"})
    assert call.status == 503
