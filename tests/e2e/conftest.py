"""What tests with real clients share: their servers, their meters, and the table at the end."""

import collections
import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.adapters.scripted.rules import Rule
from semantic_trio.entrypoints import settings_loading
from tests.e2e.meter import Meter, Turn
from tests.process import ServerProcess, serving

COLUMNS = "{:62} {:>2} {:7} {:>6} {:>6} {:>5} {:>6} {:>7} {:8} {:>5}"
TURNS = pytest.StashKey[list[Turn]]()
MISSES = pytest.StashKey[collections.Counter[str]]()


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """The weights of the main model under other configurations, so that they are other models."""
    catalogue = open_catalogue(settings_loading.load({}).settings.data_dir)
    source, root = catalogue.ensure("tiny-random", Lines()), tmp_path_factory.mktemp("models")
    for spaces, name in enumerate(("other", "small"), 1):
        shutil.copytree(source, root / name)
        config = root / name / "config.json"
        config.write_text(config.read_text() + spaces * " ")
    return str(root / "other"), str(root / "small")


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts a server that gives the answers of some rules."""
    with contextlib.ExitStack() as stack:

        def start(*rules: Rule, arguments: tuple[str, ...] = ()) -> ServerProcess:
            script = tmp_path / "script.json"
            script.write_text(json.dumps(msgspec.to_builtins(rules)))
            return stack.enter_context(serving(tmp_path, "--script", str(script), *arguments))

        yield start


@pytest.fixture
def metered(
    request: pytest.FixtureRequest, scripted: object
) -> Iterator[Callable[[ServerProcess], Meter]]:
    """Puts a meter before a server; its figures go into the table.

    It asks the server for some, so the server goes after it.
    """
    meters: list[Meter] = []

    def start(server: ServerProcess) -> Meter:
        meters.append(Meter(server.url, request.node.name.removeprefix("test_")))
        return meters[-1]

    yield start
    for meter in meters:
        request.config.stash.setdefault(TURNS, []).extend(meter.turns)
        request.config.stash.setdefault(MISSES, collections.Counter()).update(meter.misses())
        meter.close()


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The figures of every turn that went through a meter."""
    turns = config.stash.get(TURNS, [])
    if not turns:
        return
    terminalreporter.section("what was used again")
    terminalreporter.write_line(
        COLUMNS.format(
            "test", "#", "kind", "prompt", "common", "said", "reused", "share", "cause", "lost"
        )
    )
    for turn in turns:
        share, figures = (
            f"{turn.share:.2%}" if turn.common else "-",
            (turn.prompt, turn.common, turn.said, turn.reused),
        )
        terminalreporter.write_line(
            COLUMNS.format(
                turn.client[:62],
                turn.number,
                turn.kind,
                *figures,
                share,
                turn.cause or "-",
                turn.lost,
            )
        )
    later = [turn for turn in turns if turn.common]
    common, reused = (
        sum(turn.common for turn in later),
        sum(min(turn.reused, turn.common) for turn in later),
    )
    terminalreporter.write_line(
        f"{len(later)} of {len(turns)} turns had something in common with one before: {reused} of "
        f"{common} tokens reused"
    )
    causes = config.stash.get(MISSES, collections.Counter()).most_common()
    terminalreporter.write_line(
        "misses by cause: " + ", ".join(f"{cause} {count}" for cause, count in causes)
    )
