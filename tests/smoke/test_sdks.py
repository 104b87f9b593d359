"""The real SDKs against a real server with a real model."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import anthropic
import openai
import pytest
from anthropic.types import MessageParam
from openai.types.chat import ChatCompletionMessageParam

from tests.process import ServerProcess

QUESTION = "What is the capital of France? Answer with one word."


@pytest.fixture
def claude(real_server: ServerProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=real_server.url, api_key="local", max_retries=0) as client:
        yield client


@pytest.fixture
def gpt(real_server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{real_server.url}/v1", api_key="local", max_retries=0) as client:
        yield client


def ask(question: str) -> list[MessageParam]:
    return [{"role": "user", "content": question}]


def ask_gpt(question: str) -> list[ChatCompletionMessageParam]:
    return [{"role": "user", "content": question}]


def text_of(message: anthropic.types.Message) -> str:
    return "".join(block.text for block in message.content if block.type == "text")


def prompt_tokens(usage: anthropic.types.Usage) -> int:
    """Tokens of the prompt, remembered or not."""
    return (
        usage.input_tokens
        + (usage.cache_read_input_tokens or 0)
        + (usage.cache_creation_input_tokens or 0)
    )


def test_anthropic_plain_says_paris(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="smollm2-135m", max_tokens=30, extra_body={"temperature": 0}, messages=ask(QUESTION)
    )

    assert "Paris" in text_of(message)
    assert message.stop_reason == "end_turn"
    assert prompt_tokens(message.usage) > 10
    assert message.usage.output_tokens > 1


def test_anthropic_streaming_says_the_same(claude: anthropic.Anthropic) -> None:
    plain = claude.messages.create(
        model="smollm2-135m", max_tokens=30, extra_body={"temperature": 0}, messages=ask(QUESTION)
    )
    with claude.messages.stream(
        model="smollm2-135m", max_tokens=30, extra_body={"temperature": 0}, messages=ask(QUESTION)
    ) as stream:
        pieces = list(stream.text_stream)
        final = stream.get_final_message()

    assert "".join(pieces) == text_of(final) == text_of(plain)
    assert final.usage.output_tokens == plain.usage.output_tokens
    assert prompt_tokens(final.usage) == prompt_tokens(plain.usage)
    assert final.usage.input_tokens == 1, "the same again computes its last token"


def test_count_tokens_is_what_is_billed(claude: anthropic.Anthropic) -> None:
    counted = claude.messages.count_tokens(
        model="smollm2-135m", system="Be brief.", messages=ask(QUESTION)
    )
    billed = claude.messages.create(
        model="smollm2-135m", max_tokens=1, system="Be brief.", messages=ask(QUESTION)
    )

    assert counted.input_tokens == prompt_tokens(billed.usage)


def test_openai_plain_and_streaming_say_paris(gpt: openai.OpenAI) -> None:
    plain = gpt.chat.completions.create(
        model="smollm2-135m", max_tokens=30, temperature=0, messages=ask_gpt(QUESTION)
    )
    stream = gpt.chat.completions.create(
        model="smollm2-135m",
        max_tokens=30,
        temperature=0,
        messages=ask_gpt(QUESTION),
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)

    assert "Paris" in text
    assert text == plain.choices[0].message.content
    whole = chunks[-1].usage
    assert whole is not None
    assert plain.usage is not None
    assert (whole.prompt_tokens, whole.completion_tokens) == (
        plain.usage.prompt_tokens,
        plain.usage.completion_tokens,
    )
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_both_protocols_say_the_same_and_eight_at_once_as_one_alone(
    claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> None:
    def one(question: str, use_claude: bool) -> str:
        if use_claude:
            return text_of(
                claude.messages.create(
                    model="default",
                    max_tokens=12,
                    extra_body={"temperature": 0},
                    messages=ask(question),
                )
            )
        return (
            gpt.chat.completions.create(
                model="default", max_tokens=12, temperature=0, messages=ask_gpt(question)
            )
            .choices[0]
            .message.content
            or ""
        )

    questions = [f"What is {n} plus {n}?" for n in range(4)]
    alone = [one(q, use_claude=True) for q in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(one, questions * 2, [True] * 4 + [False] * 4))

    assert together == alone * 2


def test_a_seed_repeats_alone_and_in_a_batch(gpt: openai.OpenAI) -> None:
    def one(seed: int) -> str | None:
        answer = gpt.chat.completions.create(
            model="default",
            max_tokens=12,
            temperature=1.2,
            seed=seed,
            messages=ask_gpt("Tell me a story."),
        )
        return answer.choices[0].message.content

    alone = one(7)
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(one, [1, 7, 2, 3]))

    assert together[1] == alone
    assert len(set(together)) == 4


def test_stop_sequences_are_enforced_and_named(claude: anthropic.Anthropic) -> None:
    message = claude.messages.create(
        model="default",
        max_tokens=60,
        extra_body={"temperature": 0},
        stop_sequences=["France"],
        messages=ask("Say: I love France."),
    )

    assert "France" not in text_of(message)
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "France")


def test_both_sdks_read_the_models(claude: anthropic.Anthropic, gpt: openai.OpenAI) -> None:
    assert claude.models.list().data[0].id == "smollm2-135m"
    assert gpt.models.list().data[0].id == "smollm2-135m"
    assert claude.models.retrieve("smollm2-135m").max_input_tokens == 8192
    assert gpt.models.retrieve("smollm2-135m").id == "smollm2-135m"


def test_a_prompt_beyond_the_context_is_refused_in_the_words_that_clients_know(
    claude: anthropic.Anthropic, gpt: openai.OpenAI
) -> None:
    with pytest.raises(
        anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 8192 maximum"
    ):
        claude.messages.create(model="default", max_tokens=10, messages=ask("word " * 9000))
    with pytest.raises(openai.BadRequestError, match="maximum context length is 8192 tokens"):
        gpt.chat.completions.create(
            model="default", max_tokens=10, messages=ask_gpt("word " * 9000)
        )


def test_metrics_count_what_happened(
    real_server: ServerProcess, claude: anthropic.Anthropic
) -> None:
    before = real_server.metric("semantic_tokens_generated_total")
    answer = claude.messages.create(
        model="default", max_tokens=5, extra_body={"temperature": 0}, messages=ask("Count to ten.")
    )

    assert (
        real_server.metric("semantic_tokens_generated_total") - before == answer.usage.output_tokens
    )
    assert (
        'semantic_request_total{model="smollm2-135m",protocol="anthropic",status="200"}'
        in real_server.get("/metrics").text
    )
