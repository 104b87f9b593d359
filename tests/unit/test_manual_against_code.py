"""The manual names what the code has: settings, metrics, routes, commands, options, files, tests.

What it should name and does not is found too.
"""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import attrs
import click
import pytest

from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.testing import FakeRunner
from tests.http.serving import served

ROOT = Path(__file__).parents[2]
PAGES = (
    [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if (ROOT / "docs").is_dir()
    else []
)
BLOCK = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
# Options that `semantic-trio claude --run` hands to Claude Code stand behind this.
END_OF_OPTIONS = "--"
# Read before the settings, by the shell's completion, and the misspelling that the manual shows.
NO_SETTINGS = {"SEMANTIC_ENVIRONMENT", "SEMANTIC_TRIO_COMPLETE", "SEMANTIC_PROT"}
# The package, and a field of the last event of a stream.
NO_METRICS = {"semantic_trio", "semantic_cache"}
# Written by a measurement, on a machine that does nothing else.
MEASURED = {"benchmarks/baseline.json"}
# Files of the dashboard's page.
NO_API = {"/dashboard/static/{}"}

pytestmark = pytest.mark.skipif(not PAGES, reason="needs a checkout")


def everything() -> Iterator[tuple[Path, str]]:
    """Each page with its text. The changelog tells of what was, and is no page."""
    yield from ((page, page.read_text()) for page in PAGES)


def code(folder: str) -> str:
    return "".join(
        path.read_text() for path in sorted((ROOT / "semantic_trio" / folder).rglob("*.py"))
    )


# ----------------------------------------------------------------------------------------- settings


def test_the_table_of_settings_has_no_unknown_one() -> None:
    rows = re.findall(
        r"^\| (`[^|]+`) \|",
        (ROOT / "docs" / "operations.md").read_text().split("## Safety")[0],
        re.MULTILINE,
    )
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}

    assert named == {field.name for field in attrs.fields(Settings)}


def test_every_variable_of_the_environment_in_the_manual_is_a_setting() -> None:
    known = {f"SEMANTIC_{field.name.upper()}" for field in attrs.fields(Settings)} | {
        "SEMANTIC_ENVIRONMENT",
        "SEMANTIC_TRIO_COMPLETE",
        "SEMANTIC_PROT",
    }

    assert {
        (page.name, name)
        for page, text in everything()
        for name in re.findall(r"\bSEMANTIC_[A-Z_]*[A-Z]\b", text)
        if name not in known
    } == set()


# ------------------------------------------------------------------------------------------ metrics


def test_every_metric_of_the_manual_is_in_the_code() -> None:
    known = {
        name.removesuffix("_total")
        for name in re.findall(r'"(semantic_\w+)"', code("adapters/metrics"))
    } | NO_METRICS
    named = {
        (page.name, name)
        for page, text in everything()
        for name in re.findall(r"`(semantic_\w+)", text)
    }

    assert {
        (page, name) for page, name in named if name.removesuffix("_total") not in known
    } == set()


# ------------------------------------------------------------------------------------------- routes


def routes() -> set[str]:
    """Paths of the application, with `{}` for what varies."""
    return {
        re.sub(r"<[^>]+>", "{}", rule.rule)
        for rule in served(FakeRunner()).app.url_map.iter_rules()
    }


async def test_every_route_is_in_the_manual() -> None:
    told = " ".join(text for _, text in everything())
    paths = {re.sub(r"\{\w+\}|<\w+>", "{}", path) for path in re.findall(r"/[\w/{}<>.-]+", told)}
    endings = {"{}" + path for path in paths}  # "/unpin" beside "/v1/agents/{id}/pin"

    def is_told(path: str) -> bool:
        front, _, last = path.rpartition("/")
        return path in paths or (
            f"/{last}" in paths and any(other.startswith(front) for other in paths | endings)
        )

    assert {path for path in routes() - NO_API if path != "/" and not is_told(path)} == set()


async def test_every_route_of_the_manual_exists() -> None:
    known = [re.compile(re.escape(path).replace(r"\{\}", "[^/]+") + "$") for path in routes()]
    table = (ROOT / "docs" / "api-reference.md").read_text().split("Paths are taken")[0]
    named = set(re.findall(r"`(?:[A-Z]+ )?(/(?:v1|admin|health|metrics|openapi)[^`\s]*)`", table))

    assert len(named) > 15
    assert {
        path
        for path in named
        if not any(rule.match(path) for rule in known) and path != "/v1/responses/{id}"
    } == set()


# ----------------------------------------------------------------------------- commands and options


def code_lines() -> Iterator[tuple[str, str]]:
    """Each line of shell and each code within a line, with its page; without comments."""
    for page, text in everything():
        blocks = [
            line
            for _, language, block in BLOCK.findall(text)
            if language == "sh"
            for line in block.splitlines()
        ]
        for line in [*blocks, *re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))]:
            yield page.name, line.split(" #")[0].strip()


def command_lines() -> Iterator[tuple[str, list[str]]]:
    """Each `semantic-trio ...` of the pages' code: page, and words behind the program's name."""
    for page, line in code_lines():
        if found := re.match(r"semantic-trio ([a-z-].*)", line):
            yield page, shlex.split(re.split(r" [|;&>] ?", found[1])[0])


def problem(words: list[str]) -> str:
    """What the command line has no command or option for, else an empty text."""
    command: click.Command = main
    for word in words:
        if word == END_OF_OPTIONS:
            break
        if word.startswith("-"):
            options = {
                option
                for parameter in command.params
                for option in (*parameter.opts, *parameter.secondary_opts)
            } | {"-h", "--help"}
            if word.split("=")[0] not in options:
                return word
        elif isinstance(command, click.Group):
            for name in word.split("|"):
                if name not in command.commands:
                    return name
            command = command.commands[word.split("|")[0]]
    return ""


def test_every_command_of_the_manual_exists_with_its_options() -> None:
    lines = list(command_lines())

    assert len(lines) > 50
    assert [
        (page, " ".join(words), wrong) for page, words in lines if (wrong := problem(words))
    ] == []


def commands(group: click.Group, front: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if not command.hidden:
            yield f"{front} {name}"
            if isinstance(command, click.Group):
                yield from commands(command, f"{front} {name}")


def test_every_command_is_in_the_manual() -> None:
    told = " ".join(text for _, text in everything())
    lists = re.findall(r"semantic-trio (\w+) ([\w| ]+)", told)  # "models load | unload | swap"
    named = {
        f"semantic-trio {group} {name}"
        for group, names in lists
        for name in re.split(r"[ |]+", names)
    }

    assert [
        name for name in commands(main, "semantic-trio") if name not in told and name not in named
    ] == []


def test_every_target_of_make_in_the_manual_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    told = [
        (page, word)
        for page, line in code_lines()
        if line.startswith("make ")
        for word in line.split()[1:]
        if re.fullmatch("[a-z0-9-]+", word)
    ]

    assert len(told) > 20
    assert [(page, word) for page, word in told if word not in targets] == []


# ------------------------------------------------------------------------------------- files, tests


def test_every_file_of_the_repository_in_the_manual_exists() -> None:
    files = re.compile(
        r"(?:^|[\s=])((?:tests|benchmarks|examples|config|docs|tools)/[\w./-]+\.\w+)"
    )
    named = {
        (page, path)
        for page, line in code_lines()
        if not line.startswith("git log")
        for path in files.findall(line)
    }

    assert len(named) > 40
    assert {
        (page, path) for page, path in named if path not in MEASURED and not (ROOT / path).exists()
    } == set()


def test_every_module_of_the_package_in_the_manual_exists() -> None:
    """Modules are named from the package on, or from `adapters` on."""
    modules = re.compile(r"`((?:[a-z_]+/)+[a-z_]+\.py)`")
    places = (ROOT, ROOT / "semantic_trio", ROOT / "semantic_trio" / "adapters")

    assert [
        (page.name, path)
        for page, text in everything()
        for path in modules.findall(text)
        if not any((place / path).exists() for place in places)
    ] == []


def test_every_page_that_the_code_names_exists() -> None:
    named = re.findall(
        r"docs/[\w-]+\.md",
        code(".")
        + (ROOT / "config" / "default.toml").read_text()
        + (ROOT / "Makefile").read_text(),
    )

    assert named
    assert {page for page in named if not (ROOT / page).exists()} == set()


def test_each_example_says_how_to_run_it_what_it_prints_and_which_page_explains_it() -> None:
    examples = sorted((ROOT / "examples").glob("*.py"))
    tests = (ROOT / "tests" / "smoke" / "test_examples.py").read_text()

    assert len(examples) >= 4
    for path in examples:
        words = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split())
        assert f"python examples/{path.name}" in words, path
        assert "Expected output" in words, path
        assert [(ROOT / page).exists() for page in re.findall(r"docs/[\w-]+\.md", words)] == [
            True
        ], path
        assert f'EXAMPLES / "{path.name}"' in tests, path


def test_every_test_of_the_manual_exists() -> None:
    named = {
        found
        for _, text in everything()
        for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
    }
    tests = {
        path: {
            node.name
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if hasattr(node, "name")
        }
        for path, _ in named
    }

    assert len(named) > 40
    assert sorted(f"{path}::{test}" for path, test in named if test not in tests[path]) == []
