"""The real Claude Code with a small model for its side requests, in a session in the middle of
which the main model is swapped.
"""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e.claude_code import OLDER, Client, Dialogue, install, pointing_at
from tests.e2e.meter import Exchange, Meter
from tests.process import ServerProcess

WORDS = ("start", "proceed", "return")

pytestmark = pytest.mark.timeout(600)


def swap(server: ServerProcess, model: str) -> None:
    answer = server.post("/admin/models/swap", json={"model": model})
    assert answer.is_success, answer.text


def answering_model(exchange: Exchange) -> str:
    found = re.search(rb'"model":"([^"]+)"', exchange.answer)
    assert found, exchange.answer
    return found[1].decode()


def test_claude_code_goes_on_when_the_main_model_is_swapped_in_the_middle_of_its_session(
    tmp_path: Path,
    scripted: Callable[..., ServerProcess],
    metered: Callable[[ServerProcess], Meter],
    others: tuple[str, str],
) -> None:
    """The version that asks a small model for the paths in each command it has run."""
    other, small = others
    bash = Call("Bash", {"command": "echo done"})
    server = scripted(
        Rule(when="Extract any file paths", text="<filepaths>\n</filepaths>"),
        Rule(when="^Warmup", text="ok"),
        *(
            rule
            for number, word in enumerate(WORDS)
            for rule in (
                Rule(when=f"{word} now", turn=2 * number, calls=(bash,)),
                Rule(when="done", turn=2 * number + 1, text=f"I did {word}."),
            )
        ),
        arguments=("--models", f"{other},{small}", "--aliases", f"claude-haiku*={small}"),
    )
    meter = metered(server)
    models = pointing_at(meter.url, "claude-local") | {
        "ANTHROPIC_DEFAULT_HAIKU_MODEL": "claude-haiku-local",
        "ANTHROPIC_SMALL_FAST_MODEL": "claude-haiku-local",
    }
    claude = Client(install(OLDER), tmp_path / "home", tmp_path / "project", models)
    said = list[str]()
    with claude.started("-p", "--input-format", "stream-json", "--allowedTools", "Bash") as process:
        dialogue = Dialogue(process)
        for word, model in zip(WORDS, ("", other, "tiny-random"), strict=True):
            if model:
                swap(server, model)
            dialogue.say(f"{word} now")
            said.append(dialogue.until("result")["result"])
    asked = [exchange for exchange in meter.exchanges if exchange.is_turn]
    sides = [one for one in asked if one.asked["model"] == "claude-haiku-local"]
    mains = [one for one in asked if one.asked["model"] == "claude-local"]
    turns = [one for one in mains if "start now" in str(one.asked["messages"])]
    first_of_each = [
        next(one for one in turns if f"{word} now" in str(one.asked["messages"][-1]))
        for word in WORDS
    ]

    assert said == [f"I did {word}." for word in WORDS]
    assert {answering_model(one) for one in sides} == {small}
    assert [answering_model(one) for one in first_of_each] == ["tiny-random", other, "tiny-random"]
    assert first_of_each[1].cache["reused"] < 100, "the other model has not read it"
    assert first_of_each[2].cache["source"] == "disk"
    assert first_of_each[2].bill.reused >= first_of_each[0].bill.prompt
