"""The real SDKs against a server on a socket."""

from collections.abc import Callable
from typing import TypeVar

import anthropic
import openai
import pytest
import trio

from semantic_trio.adapters.http.serving.app_state import HttpSettings
from semantic_trio.testing import FakeRunner
from tests.http.serving import listening, served

T = TypeVar("T")
KEY = "s3cret"


async def in_thread(call: Callable[[], T]) -> T:
    """The SDKs' own way is to block."""
    return await trio.to_thread.run_sync(call)


def anthropic_client(port: int) -> anthropic.Anthropic:
    """Anthropic's SDK."""
    return anthropic.Anthropic(base_url=f"http://127.0.0.1:{port}", api_key=KEY, max_retries=0)


def openai_client(port: int) -> openai.OpenAI:
    """OpenAI's SDK."""
    return openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=KEY, max_retries=0)


def read(usage: anthropic.types.Usage) -> int:
    """Tokens of the prompt, wherever they came from."""
    return (
        usage.input_tokens
        + (usage.cache_read_input_tokens or 0)
        + (usage.cache_creation_input_tokens or 0)
    )


async def test_both_sdks_parse_the_list_of_models() -> None:
    async with listening(served(FakeRunner(), HttpSettings(api_key=KEY))) as port:
        with anthropic_client(port) as theirs, openai_client(port) as others:
            listed = await in_thread(lambda: list(theirs.models.list()))
            one = await in_thread(lambda: theirs.models.retrieve("org/tiny"))
            listed_too = await in_thread(lambda: list(others.models.list()))
            one_too = await in_thread(lambda: others.models.retrieve("org/tiny"))

    assert [model.id for model in listed] == [model.id for model in listed_too] == ["org/tiny"]
    assert one.display_name == "Tiny"
    assert one.created_at.year == 2023
    assert (one_too.owned_by, one_too.created, one_too.object) == ("local", 1_700_000_000, "model")


async def test_the_anthropic_sdk_streams_and_counts() -> None:
    def talk(port: int) -> None:
        messages: list[anthropic.types.MessageParam] = [{"role": "user", "content": "hi"}]
        with anthropic_client(port) as client:
            plain = client.messages.create(model="org/tiny", max_tokens=20, messages=messages)
            with client.messages.stream(
                model="org/tiny", max_tokens=20, messages=messages
            ) as stream:
                text = "".join(stream.text_stream)
                final = stream.get_final_message()
            counted = client.messages.count_tokens(model="org/tiny", messages=messages)
        assert plain.usage.output_tokens == 20
        assert final.content[0].text == text  # type: ignore[union-attr]
        assert len(text) == 20
        assert read(final.usage) == read(plain.usage) == counted.input_tokens
        assert final.usage.cache_read_input_tokens == counted.input_tokens - 1, (
            "the same again computes its last token"
        )
        assert final.stop_reason == "max_tokens"
        assert plain._request_id is not None

    async with listening(served(FakeRunner(), HttpSettings(api_key=KEY))) as port:
        await in_thread(lambda: talk(port))


async def test_the_openai_sdk_streams() -> None:
    def talk(port: int) -> None:
        messages: list[openai.types.chat.ChatCompletionMessageParam] = [
            {"role": "user", "content": "hi"}
        ]
        with openai_client(port) as client:
            plain = client.chat.completions.create(
                model="org/tiny", max_tokens=20, seed=1, messages=messages
            )
            stream = client.chat.completions.create(
                model="org/tiny",
                max_tokens=20,
                seed=1,
                messages=messages,
                stream=True,
                stream_options={"include_usage": True},
            )
            pieces = list(stream)
        text = "".join(choice.delta.content or "" for piece in pieces for choice in piece.choices)
        assert text == plain.choices[0].message.content
        (whole,) = (piece.usage for piece in pieces if piece.usage)
        assert (whole.prompt_tokens, whole.total_tokens) == (
            plain.usage.prompt_tokens,
            plain.usage.total_tokens,
        )
        assert whole.prompt_tokens_details.cached_tokens == whole.prompt_tokens - 1, (
            "the same again computes its last token"
        )

    async with listening(served(FakeRunner(), HttpSettings(api_key=KEY))) as port:
        await in_thread(lambda: talk(port))


async def test_a_failed_stream_raises_in_both_sdks() -> None:
    def anthropic_reads(port: int) -> None:
        with (
            anthropic_client(port) as client,
            client.messages.stream(
                model="tiny", max_tokens=500, messages=[{"role": "user", "content": "hi"}]
            ) as stream,
        ):
            list(stream.text_stream)

    def openai_reads(port: int) -> None:
        with openai_client(port) as client:
            list(
                client.chat.completions.create(
                    model="tiny",
                    max_tokens=500,
                    messages=[{"role": "user", "content": "hi"}],
                    stream=True,
                )
            )

    for read, error in (
        (anthropic_reads, anthropic.APIStatusError),
        (openai_reads, openai.APIError),
    ):
        async with listening(served(_burning(), HttpSettings(api_key=KEY))) as port:
            with pytest.raises(error, match="on fire"):
                await in_thread(lambda read=read, port=port: read(port))  # type: ignore[misc]


def _burning() -> FakeRunner:
    def fails(plan: object) -> None:
        if len(runner.plans) == 10:
            raise RuntimeError("on fire")

    runner = FakeRunner(before_step=fails)
    return runner


async def test_errors_arrive_as_the_sdks_own() -> None:
    def ask(port: int) -> None:
        with (
            anthropic_client(port) as client,
            pytest.raises(anthropic.NotFoundError, match="model: nope"),
        ):
            client.messages.create(
                model="nope", max_tokens=1, messages=[{"role": "user", "content": "hi"}]
            )
        with openai_client(port) as client, pytest.raises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="tiny", messages=[])
        assert caught.value.param == "messages"
        stranger = openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="wrong", max_retries=0
        )
        with stranger, pytest.raises(openai.AuthenticationError):
            stranger.models.list()

    async with listening(served(FakeRunner(), HttpSettings(api_key=KEY))) as port:
        await in_thread(lambda: ask(port))
