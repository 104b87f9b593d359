"""The openai SDK, sync and async, against a server with a model that knows nothing: what it says
has a form because it can say nothing else.
"""

import asyncio  # noqa: TID251 - the loop most users of the client run it on
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pydantic
import pytest
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

from tests.process import ServerProcess

MODEL = "tiny-random"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say something."}]
# For what is drawn at random to be the same each time.
SURE: dict[str, Any] = {"model": MODEL, "seed": 3, "temperature": 0}


class Dog(pydantic.BaseModel):
    """A dog, in so few letters that nobody waits for it."""

    model_config = pydantic.ConfigDict(extra="forbid")

    name: Literal["Rex", "Bello"]
    color: str = pydantic.Field(max_length=4)
    legs: Literal[3, 4]
    is_good: bool


class Feed(Dog):
    """Feeds a dog."""


TOOL: ChatCompletionToolParam = openai.pydantic_function_tool(Feed, name="feed")


class Seek(pydantic.BaseModel):
    """Seeks a place."""

    model_config = pydantic.ConfigDict(extra="forbid")

    where: Literal["here", "there"]


@pytest.fixture(scope="module")
def gpt(tiny_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{tiny_server.url}/v1", api_key="local", max_retries=0) as client:
        yield client


def test_a_stream_says_what_a_plain_answer_says(gpt: openai.OpenAI) -> None:
    plain = gpt.chat.completions.create(**SURE, messages=HELLO, max_tokens=8)
    chunks = list(
        gpt.chat.completions.create(
            **SURE,
            messages=HELLO,
            max_tokens=8,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)

    assert plain.choices[0].finish_reason == "length"
    assert plain.usage is not None
    assert chunks[-1].usage is not None
    assert plain.usage.completion_tokens == chunks[-1].usage.completion_tokens == 8
    assert text == plain.choices[0].message.content


def test_the_events_of_the_stream_helper_end_with_the_whole(gpt: openai.OpenAI) -> None:
    with gpt.chat.completions.stream(
        model=MODEL, messages=HELLO, response_format=Dog, seed=5, max_tokens=400, logprobs=True
    ) as stream:
        events = list(stream)
        message = stream.get_final_completion().choices[0].message
    said = "".join(event.delta for event in events if event.type == "content.delta")

    assert {
        "chunk",
        "content.delta",
        "content.done",
        "logprobs.content.delta",
        "logprobs.content.done",
    } == {event.type for event in events}
    assert [event.parsed for event in events if event.type == "content.done"] == [message.parsed]
    assert said == message.content
    assert isinstance(message.parsed, Dog)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_parsed_validates(gpt: openai.OpenAI, seed: int) -> None:
    answer = gpt.chat.completions.parse(
        model=MODEL, messages=HELLO, response_format=Dog, seed=seed, temperature=1.5, max_tokens=400
    )
    dog = answer.choices[0].message.parsed

    assert isinstance(dog, Dog)
    assert answer.choices[0].finish_reason == "stop"


def test_a_call_that_is_required_is_made_and_its_result_is_taken(gpt: openai.OpenAI) -> None:
    asked = gpt.chat.completions.parse(
        model=MODEL,
        messages=HELLO,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=400,
    )
    message = asked.choices[0].message
    assert message.tool_calls is not None
    result: ChatCompletionMessageParam = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": "fed",
    }
    history = [*HELLO, message.to_dict(), result]
    answer = gpt.chat.completions.create(
        model=MODEL, messages=history, tools=[TOOL], tool_choice="none", max_tokens=4
    )  # type: ignore[call-overload]

    assert asked.choices[0].finish_reason == "tool_calls"
    assert [type(call.function.parsed_arguments) for call in message.tool_calls] == [Feed]
    assert answer.choices[0].message.tool_calls is None
    assert answer.usage.prompt_tokens_details.cached_tokens >= asked.usage.prompt_tokens  # type: ignore[union-attr]


def test_the_call_that_is_named_is_made_and_streamed(gpt: openai.OpenAI) -> None:
    tools, named = (
        [TOOL, openai.pydantic_function_tool(Seek)],
        {"type": "function", "function": {"name": "Seek"}},
    )
    with gpt.chat.completions.stream(
        model=MODEL, messages=HELLO, tools=tools, tool_choice=named, max_tokens=400
    ) as stream:
        calls = [event for event in stream if event.type == "tool_calls.function.arguments.done"]

    assert [call.name for call in calls] == ["Seek"]
    assert isinstance(calls[0].parsed_arguments, Seek)


def test_logprobs_are_those_of_what_was_said(gpt: openai.OpenAI) -> None:
    choice = gpt.chat.completions.create(
        **SURE, messages=HELLO, max_tokens=5, logprobs=True, top_logprobs=3
    ).choices[0]
    assert choice.logprobs is not None
    tokens = choice.logprobs.content or []

    assert len(tokens) == 5
    assert (
        b"".join(bytes(token.bytes or []) for token in tokens).decode(errors="replace")
        == choice.message.content
    )
    for token in tokens:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(other.logprob for other in token.top_logprobs) <= 0, (
            "the likeliest is what is drawn without chance"
        )


def test_several_answers_are_as_many(gpt: openai.OpenAI) -> None:
    answer = gpt.chat.completions.create(model=MODEL, messages=HELLO, n=2, seed=1, max_tokens=6)

    assert [choice.index for choice in answer.choices] == [0, 1]
    assert len({choice.message.content for choice in answer.choices}) == 2
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 12


def test_a_text_is_gone_on_with(gpt: openai.OpenAI) -> None:
    plain = gpt.completions.create(**SURE, prompt="Once upon", max_tokens=6, echo=True)
    pieces = gpt.completions.create(**SURE, prompt="Once upon", max_tokens=6, stream=True)

    assert plain.choices[0].text.startswith("Once upon")
    assert "Once upon" + "".join(piece.choices[0].text for piece in pieces) == plain.choices[0].text


def test_vectors_are_the_same_in_both_encodings(gpt: openai.OpenAI) -> None:
    asked = ["one", "another"]
    packed = gpt.embeddings.create(model=MODEL, input=asked)
    plain = gpt.embeddings.create(model=MODEL, input=asked, encoding_format="float")

    assert [vector.index for vector in packed.data] == [0, 1]
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, rel=1e-6)
        assert len(one.embedding) > 1
    assert packed.data[0].embedding != packed.data[1].embedding


def test_models_are_listed(gpt: openai.OpenAI) -> None:
    assert [model.id for model in gpt.models.list()] == [MODEL]


def test_errors_are_those_of_the_sdk(gpt: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        gpt.chat.completions.create(model=MODEL, messages=HELLO, temperature=9)
    with pytest.raises(openai.NotFoundError) as unknown:
        gpt.chat.completions.create(model="nobody", messages=HELLO)
    with pytest.raises(openai.NotFoundError):
        gpt.responses.retrieve("resp_none")

    assert (refused.value.type, refused.value.param) == ("invalid_request_error", "temperature")
    assert unknown.value.code == "model_not_found"


def test_the_async_client_has_the_same(tiny_server: ServerProcess, gpt: openai.OpenAI) -> None:
    async def ask() -> tuple[str | None, str, Dog | None, list[float], str | None]:
        async with openai.AsyncOpenAI(
            base_url=f"{tiny_server.url}/v1", api_key="local", max_retries=0
        ) as client:
            plain = await client.chat.completions.create(**SURE, messages=HELLO, max_tokens=8)
            stream = await client.chat.completions.create(
                **SURE, messages=HELLO, max_tokens=8, stream=True
            )
            text = "".join(
                [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
            )
            parsed = await client.chat.completions.parse(
                model=MODEL, messages=HELLO, response_format=Dog, max_tokens=400
            )
            vectors = await client.embeddings.create(model=MODEL, input="one")
            response = await client.responses.create(
                model=MODEL, input="Say something.", max_output_tokens=8, temperature=0
            )
        return (
            plain.choices[0].message.content,
            text,
            parsed.choices[0].message.parsed,
            vectors.data[0].embedding,
            response.status,
        )

    plain, streamed, dog, vector, status = asyncio.run(ask())

    assert (
        plain
        == streamed
        == gpt.chat.completions.create(**SURE, messages=HELLO, max_tokens=8)
        .choices[0]
        .message.content
    )
    assert isinstance(dog, Dog)
    assert vector == gpt.embeddings.create(model=MODEL, input="one").data[0].embedding
    assert status == "incomplete"


def test_responses_parse_call_and_go_on(gpt: openai.OpenAI) -> None:
    parsed = gpt.responses.parse(
        model=MODEL, input="Invent a dog.", text_format=Dog, max_output_tokens=400
    )
    called = gpt.responses.parse(
        model=MODEL,
        input="Feed it.",
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_output_tokens=400,
    )
    call = next(item for item in called.output if item.type == "function_call")
    fed: Any = [{"type": "function_call_output", "call_id": call.call_id, "output": "fed"}]
    after = gpt.responses.create(
        model=MODEL, input=fed, previous_response_id=called.id, max_output_tokens=4
    )

    assert isinstance(parsed.output_parsed, Dog)
    assert isinstance(call.parsed_arguments, Feed)
    assert after.previous_response_id == called.id


def test_the_events_of_a_streamed_response_end_with_the_whole(gpt: openai.OpenAI) -> None:
    with gpt.responses.stream(
        model=MODEL, input="Invent a dog.", text_format=Dog, max_output_tokens=400
    ) as stream:
        events = list(stream)
        final = stream.get_final_response()

    assert [events[0].type, events[-1].type] == ["response.created", "response.completed"]
    assert (
        "".join(event.delta for event in events if event.type == "response.output_text.delta")
        == final.output_text
    )
    assert isinstance(final.output_parsed, Dog)
