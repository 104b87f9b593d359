"""Ask a running server both ways: OpenAI's protocol, streamed, and Anthropic's, whole.

    make serve                                      # in another terminal
    python examples/basic_inference.py [--url http://127.0.0.1:8000] [--question "..."]

Needs nothing but `pip install anthropic openai`. docs/clients.md has more of both SDKs. Expected
output, with the default model:

    The capital of France is Paris.
    The capital of France is Paris.   (1 tokens read, 8 written)

One token is read the second time: the rest of the prompt was read for the first answer.
"""

import argparse

import anthropic
import openai


def ask_openai(url: str, question: str) -> str:
    """Print the answer as it comes, and return it."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="local")
    stream = client.chat.completions.create(
        model="default",
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        temperature=0,
        stream=True,
    )
    answer = ""
    for chunk in stream:
        piece = chunk.choices[0].delta.content or ""
        print(piece, end="", flush=True)
        answer += piece
    print()
    return answer


def ask_anthropic(url: str, question: str) -> str:
    """Print the whole answer and what it cost, and return it."""
    client = anthropic.Anthropic(base_url=url, api_key="local")
    message = client.messages.create(
        model="default",
        messages=[{"role": "user", "content": question}],
        max_tokens=60,
        extra_body={"temperature": 0},
    )
    answer = "".join(block.text for block in message.content if block.type == "text")
    print(
        f"{answer}   ({message.usage.input_tokens} tokens read, {message.usage.output_tokens} "
        "written)"
    )
    return answer


def main() -> None:
    """Ask the same question twice."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--question", default="What is the capital of France?")
    arguments = parser.parse_args()
    try:
        ask_openai(arguments.url, arguments.question)
        ask_anthropic(arguments.url, arguments.question)
    except openai.APIConnectionError:
        raise SystemExit(
            f"no server answers at {arguments.url}: start one with `make serve` in another terminal"
        ) from None


if __name__ == "__main__":
    main()
