"""The real Codex in a terminal, as people use it: keys are pressed, the screen is read, and nothing is read twice."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from semantic_trio.testing import Call, Rule
from tests.e2e.isolated import Isolated, from_npm
from tests.e2e.meter import Meter, assert_nothing_read_twice
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
    client = Isolated(from_npm("codex", "@openai/codex", VERSION, PROGRAM), tmp_path / "home", tmp_path / "project")
    client.configure(".codex/config.toml", configured(meter.url) + f'\n[projects."{client.project}"]\ntrust_level = "trusted"\n')
    with terminal([str(client.program), "--no-daemon"], client.environment, client.project) as started:
        started.shows("Ask Codex to do anything")
        yield started


def test_a_command_is_run_and_nothing_is_read_twice(tmp_path: Path, scripted: Scripted, metered: Metered) -> None:
    looks = Rule(when="^look around$", calls=(Call("exec_command", {"cmd": "echo seen-$((40+2))"}),))
    meter = metered(scripted(TITLE, looks, Rule(when="seen-42", text="I saw it."), FINE))
    with codex(tmp_path, meter) as screen:
        screen.say("look around")
        screen.shows("I saw it.")
        screen.say("and then")
        screen.shows("Fine it is.")

    assert_nothing_read_twice(meter, at_least=2)
