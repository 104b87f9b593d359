"""Try a model of your own before you rely on it: files, memory, layout, an answer, a tool call, and
a next turn that reads only what is new.

    python examples/custom_model_onboarding.py --model /path/to/an/mlx/model

Starts a server of its own, in directories that are gone afterwards. Needs `make install`, and
httpx. docs/model-onboarding.md explains each step. Expected output (for the built-in model of
random weights, whose answers mean nothing):

    files      config.json, model.safetensors, tokenizer.json, tokenizer_config.json memory
    tiny-random: 1,024 bytes a token, 8 MiB for 8,192 tokens: 512 such contexts fit cache_budget_mb
    = 4,096 layout     rows of their own answer     16 tokens tool call  weather({"city": "Paris"})
    next turn  reused=572/588; source=ram
"""

import argparse
import contextlib
import json
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

TRIO = [sys.executable, "-m", "semantic_trio"]
ADDRESS = re.compile(r" serves .+ on (http://\S+)")
SYSTEM = "You are terse. " + " ".join(
    f"Rule {number}: say nothing twice." for number in range(1, 61)
)
WEATHER = {
    "name": "weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
    },
}


def show(step: str, text: object) -> None:
    """Print the outcome of a step."""
    print(f"{step:9}  {text}", flush=True)


def directory(model: str) -> Path:
    """Return the directory of a model: of a built-in name, a path or a Hub id."""
    done = subprocess.run(
        [*TRIO, "models", "pull", model], stdout=subprocess.PIPE, text=True, check=True
    )
    return Path(done.stdout.strip().splitlines()[-1])


def memory(model: str) -> str:
    """Return the line of `semantic-trio doctor` that says how many conversations fit."""
    done = subprocess.run(
        [*TRIO, "doctor", "--model", model], capture_output=True, text=True, check=False
    )
    return next(
        (
            line.split(maxsplit=1)[1]
            for line in done.stdout.splitlines()
            if line.split()[:1] == ["memory"]
        ),
        "not known before it is loaded",
    )


@contextlib.contextmanager
def server(model: str, cache: Path) -> Iterator[str]:
    """Serve a model on a free port, and give its URL."""
    command = [*TRIO, "serve", "--model", model, "--port", "0", "--cache-dir", str(cache)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines: list[str] = []
            while not (found := ADDRESS.search("".join(lines[-1:]))):
                lines.append(process.stdout.readline())
                if not lines[-1]:
                    raise SystemExit("the model is not served:\n" + "".join(lines))
            yield found[1]
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate()


def ask(url: str, messages: list[dict[str, Any]], **fields: object) -> tuple[dict[str, Any], str]:
    """Send a conversation; return the assistant's message, and how much of the prompt was
    reused.
    """
    body = {"model": "default", "messages": messages, "max_tokens": 16, "temperature": 0, **fields}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=300).raise_for_status()
    return reply.json(), reply.headers["x-semantic-cache"]


def main(model: str, cache: Path) -> None:
    """Run all steps. The first one that fails ends the program."""
    show(
        "files",
        ", ".join(
            sorted(
                path.name
                for path in directory(model).iterdir()
                if path.suffix in {".json", ".safetensors", ".jinja"}
            )
        ),
    )
    show("memory", memory(model))
    with server(model, cache) as url:
        metrics = httpx.get(f"{url}/metrics").text
        show(
            "layout",
            ", ".join(
                re.findall(r'^semantic_layout_info\{layout="([^"]+)"\} 1', metrics, re.MULTILINE)
            ),
        )
        messages = [
            {"role": "system", "content": SYSTEM},
            {"role": "user", "content": "What is the capital of France?"},
        ]
        answer, _ = ask(url, messages)
        show("answer", f"{answer['usage']['completion_tokens']} tokens")
        tools = {
            "tools": [{"type": "function", "function": WEATHER}],
            "tool_choice": "required",
            "parallel_tool_calls": False,
        }
        called, _ = ask(url, messages, **tools, max_tokens=200)
        [call] = called["choices"][0]["message"]["tool_calls"]
        show(
            "tool call",
            f"{call['function']['name']}({json.dumps(json.loads(call['function']['arguments']))})",
        )
        _, reused = ask(
            url,
            [
                *messages,
                answer["choices"][0]["message"],
                {"role": "user", "content": "And of Italy?"},
            ],
        )
        show("next turn", reused)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", required=True, help="a directory with an MLX model, a built-in name, or a Hub id"
    )
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        main(arguments.model, Path(scratch))
