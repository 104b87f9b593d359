"""The examples run as their first lines say."""

import re
import subprocess
import sys
from pathlib import Path

from tests.process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_basic_inference_asks_both_ways(real_server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "basic_inference.py", "--url", real_server.url],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )

    assert done.stdout.count("Paris") == 2
    assert "tokens read" in done.stdout


def test_multi_agent_batching_reads_what_is_common_once(tiny_server: ServerProcess) -> None:
    done = subprocess.run(
        [
            sys.executable,
            EXAMPLES / "multi_agent_batching.py",
            "--url",
            tiny_server.url,
            "--agents",
            "3",
        ],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )

    turns = re.findall(r"^(\S+): +(\d+) tokens reused, +(\d+) read", done.stdout, re.MULTILINE)
    assert len({agent for agent, _, _ in turns}) == 3
    read = sorted(int(count) for _, _, count in turns)
    assert len(read) == 6
    assert read[-1] > 1000, "somebody has to read it"
    assert read[-2] < 100, "and everybody else finds it read"


def test_cache_persistence_goes_on_after_a_restart_from_disk() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "cache_persistence.py", "--model", "tiny-random"],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )

    turns = re.findall(r" (\d+) of +(\d+) tokens reused, from (\w+)", done.stdout)
    assert [source for _, _, source in turns] == ["none", "ram", "disk", "ram"]
    assert all(int(total) - int(reused) < 50 for reused, total, _ in turns[1:])
    assert int(turns[0][1]) > 1000


def test_custom_model_onboarding_tries_a_model_step_by_step() -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "custom_model_onboarding.py", "--model", "tiny-random"],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )

    steps = dict(
        line.split(maxsplit=1)
        for line in done.stdout.replace("tool call", "tool_call")
        .replace("next turn", "next_turn")
        .splitlines()
    )
    assert list(steps) == ["files", "memory", "layout", "answer", "tool_call", "next_turn"]
    assert "model.safetensors" in steps["files"]
    assert steps["layout"] == "rows of their own"
    assert steps["answer"] == "16 tokens"
    assert re.fullmatch(r'weather\(\{"city": "(Paris|Rome)"\}\)', steps["tool_call"])
    assert re.search(r"reused=[1-9]\d{2,}/", steps["next_turn"]), (
        "the system prompt at least is read once"
    )


def test_vector_search_finds_each_of_a_thousand_documents(tiny_server: ServerProcess) -> None:
    """The model has random weights: all that its vectors tell for certain is that a text is the
    same.
    """
    wanted = [
        "Before sunrise, the baker lost a key on a train.",
        "On a rainy afternoon, the cook counted the stars near the court.",
    ]

    done = subprocess.run(
        [sys.executable, EXAMPLES / "vector_search.py", "--url", tiny_server.url, *wanted],
        capture_output=True,
        text=True,
        timeout=500,
        check=True,
    )

    documents, *answers = done.stdout.split("\n\n")
    assert documents.startswith("1000 documents in ")
    hits = [
        [line.partition("  ")[::2] for line in answer.strip().splitlines()] for answer in answers
    ]
    assert [(answer[0][0], answer[1]) for answer in hits] == [
        (text, ("1.000", text)) for text in wanted
    ]
    assert all(len(answer) == 4 for answer in hits)
