"""The real Codex in a terminal, as people use it: keys are pressed, the screen is read, and nothing
is read twice.
"""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semantic_trio.adapters.scripted.rules import Call, Rule
from tests.e2e.isolated import Isolated, from_npm
from tests.e2e.meter import UNREAD, Meter, assert_nothing_read_twice
from tests.e2e.terminal import Terminal, terminal
from tests.e2e.test_codex import PROGRAM, VERSION, configured
from tests.process import ServerProcess

pytestmark = pytest.mark.timeout(300)

Scripted = Callable[..., ServerProcess]
Metered = Callable[[ServerProcess], Meter]
# Asked beside the conversation, with the first prompt in it.
TITLE = Rule(when="^Generate a concise", text='{"title": "A title"}')
FINE = Rule(text="Fine it is.")


@contextlib.contextmanager
def codex(tmp_path: Path, meter: Meter) -> Iterator[Terminal]:
    """Codex, with all that it asks a newcomer answered before, and ready for a prompt."""
    client = Isolated(
        from_npm("codex", "@openai/codex", VERSION, PROGRAM),
        tmp_path / "home",
        tmp_path / "project",
    )
    client.configure(
        ".codex/config.toml",
        configured(meter.url) + f'\n[projects."{client.project}"]\ntrust_level = "trusted"\n',
    )
    with terminal(
        [str(client.program), "--no-daemon"], client.environment, client.project
    ) as started:
        started.shows("Ask Codex to do anything")
        yield started


def test_a_command_is_run_and_nothing_is_read_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    looks = Rule(
        when="^look around$", calls=(Call("exec_command", {"cmd": "echo seen-$((40+2))"}),)
    )
    meter = metered(scripted(TITLE, looks, Rule(when="seen-42", text="I saw it."), FINE))
    with codex(tmp_path, meter) as screen:
        screen.say("look around")
        screen.shows("I saw it.")
        screen.say("and then")
        screen.shows("Fine it is.")

    assert_nothing_read_twice(meter, at_least=2)


def test_esc_in_an_answer_reads_nothing_twice(
    tmp_path: Path, scripted: Scripted, metered: Metered
) -> None:
    # Without what it has said until then the client tells both prompts, one after the other.
    counts = Rule(
        when="^count for me$",
        unless="^and then$",
        text="\n".join(f"line {number}" for number in range(1000)),
        pace_seconds=0.02,
    )
    server = scripted(TITLE, Rule(when="^good morning$", text="Good morning to you."), counts, FINE)
    meter = metered(server)
    with codex(tmp_path, meter) as screen:
        screen.say("good morning")
        screen.shows("Good morning to you.")
        screen.say("count for me")
        screen.shows("line 3")
        screen.press("Escape")
        screen.shows("interrupted")
        server.until_empty()
        screen.say("and then")
        screen.shows("Fine it is.")

    [interrupted] = [line for line in server.lines("request") if line["outcome"] == "client_gone"]
    assert "<turn_aborted>" in str(meter.exchanges[-1].asked["input"])
    assert_nothing_read_twice(meter, at_least=1)
    assert meter.turns[-1].reused >= interrupted["prompt_tokens"] - UNREAD
