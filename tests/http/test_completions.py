"""The Completions API as its clients read it."""

import itertools
import json
from typing import Any

import pytest
import trio.testing
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion

from semantic_trio.adapters.http.openai.completions.text_completion import Offsets
from semantic_trio.testing import FakeRunner
from tests.http.serving import Served, post, running, served
from tests.http.test_chat import lines


def body(prompt: object = "Once", **fields: Any) -> dict[str, object]:
    return {"model": "org/tiny", "prompt": prompt, "max_tokens": 5, "temperature": 0, **fields}


async def said(server: Served, *arguments: object, **fields: Any) -> Completion:
    call = await post(server.app, "/v1/completions", body(*arguments, **fields))
    assert call.status == 200, call.content
    return Completion.model_validate(call.json)


async def streamed(server: Served, *arguments: object, **fields: Any) -> list[Any]:
    call = await post(server.app, "/v1/completions", body(*arguments, stream=True, **fields))
    told = lines(call.content)
    assert told[-1] == "[DONE]"
    # chunks have no finish reason before the last; the SDK's type insists and its parser does not
    for line in told[:-1]:
        assert {"id", "object", "created", "model", "choices"} <= json.loads(line).keys()
    return [json.loads(line) for line in told[:-1]]


def text_of(pieces: list[Any], index: int = 0) -> str:
    return "".join(
        choice["text"]
        for piece in pieces
        for choice in piece["choices"]
        if choice["index"] == index
    )


@given(text=st.text(max_size=20), places=st.lists(st.integers(0, 80), max_size=10))
def test_offsets_are_of_characters_however_tokens_cut_them(text: str, places: list[int]) -> None:
    whole = text.encode()
    bounds = [0, *sorted({place % (len(whole) + 1) for place in places}), len(whole)]
    offsets = Offsets()

    found = [offsets.take(whole[start:stop]) for start, stop in itertools.pairwise(bounds)]
    assert found == [len(whole[:start].decode(errors="ignore")) for start in bounds[:-1]]


async def test_a_text_is_gone_on_with(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        whole = await said(server)
        again = await said(server, list(b"Once"))
        pieces = await streamed(server, stream_options={"include_usage": True})

    assert len(whole.choices[0].text) == 5
    assert again.choices[0].text == whole.choices[0].text == text_of(pieces)
    assert whole.choices[0].finish_reason == "length"
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 5)
    assert pieces[-1]["usage"]["total_tokens"] == 9


async def test_delimiters_of_thoughts_and_calls_are_text(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with running(served(FakeRunner())) as server:
        pushed = {str(ord("<")): 100}
        assert (await said(server, "<think>", logit_bias=pushed, max_tokens=3)).choices[
            0
        ].text == "<<<"


async def test_several_prompts_and_answers_have_their_places(
    autojump_clock: trio.testing.MockClock,
) -> None:
    prompts = ["Once", "Twice", list(b"Thrice")]
    async with running(served(FakeRunner())) as server:
        whole = await said(server, prompts, n=2, seed=3, temperature=1, echo=True)
        alone = [
            (await said(server, prompt, seed=seed, temperature=1)).choices[0].text
            for prompt in prompts
            for seed in (3, 4)
        ]
        pieces = await streamed(server, prompts, n=2, seed=3, temperature=1, echo=True)

    begun = ["Once", "Once", "Twice", "Twice", "Thrice", "Thrice"]
    assert [choice.index for choice in whole.choices] == list(range(6))
    assert [choice.text for choice in whole.choices] == [
        echo + text for echo, text in zip(begun, alone, strict=True)
    ]
    assert [text_of(pieces, index) for index in range(6)] == [
        choice.text for choice in whole.choices
    ]
    assert whole.usage is not None
    assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4 + 5 + 6, 30)


async def test_tokens_are_told_in_columns(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        choice = (await said(server, logprobs=3)).choices[0]
        pieces = await streamed(server, logprobs=3)

    assert choice.logprobs is not None
    assert choice.logprobs.tokens == list(choice.text)
    assert choice.logprobs.text_offset == [0, 1, 2, 3, 4]
    assert [len(top) for top in choice.logprobs.top_logprobs or []] == [3] * 5
    chunks = [one["logprobs"] for piece in pieces for one in piece["choices"] if one["logprobs"]]
    told = [token for one in chunks for token in one["tokens"]]
    offsets = [offset for one in chunks for offset in one["text_offset"]]
    assert (told, offsets) == (choice.logprobs.tokens, choice.logprobs.text_offset)


async def test_nothing_may_be_generated(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        whole = await said(server, echo=True, max_tokens=0)
    assert whole.choices[0].text == "Once"


async def test_the_second_time_a_prompt_is_not_read(autojump_clock: trio.testing.MockClock) -> None:
    async with running(served(FakeRunner())) as server:
        await said(server, "x" * 100)
        whole = await said(server, "x" * 100)
    assert whole.usage is not None
    assert whole.usage.prompt_tokens_details is not None
    assert (whole.usage.prompt_tokens_details.cached_tokens or 0) >= 99


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"prompt": ""}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [9999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"prompt": [2**31]}, "prompt"),
        ({"prompt": ["a"] * 1000}, "prompt"),
        ({"prompt": None}, "prompt"),
        ({"suffix": "end"}, "suffix"),
        ({"best_of": 3}, "best_of"),
        ({"echo": True, "logprobs": 1}, "echo"),
        ({"logprobs": 99}, "logprobs"),
        ({"n": 0}, "n"),
        ({"prompt": ["a"] * 17, "n": 2}, "n"),
    ],
)
async def test_what_is_wrong_is_named(
    fields: dict[str, Any], where: str, autojump_clock: trio.testing.MockClock
) -> None:
    async with running(served(FakeRunner(), vocabulary=256)) as server:
        call = await post(
            server.app,
            "/v1/completions",
            body(**fields) if "prompt" not in fields else {**body(), **fields},
        )
    error: Any = call.json["error"]
    assert call.status == 400
    assert (error["param"] or "").startswith(where)


async def test_an_echo_with_logprobs_is_refused_for_what_it_is() -> None:
    call = await post(served(FakeRunner()).app, "/v1/completions", body(echo=True, logprobs=1))

    error: Any = call.json["error"]
    assert error["message"] == (
        "echo: echo together with logprobs is not supported: log-probabilities are those of "
        "the answer alone"
    )
