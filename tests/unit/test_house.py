"""What the files around the code claim about it."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

import semantic_trio
from semantic_trio.domain.canonical import RULES
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.sources import PREFIX

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "semantic_trio"
# Depends on the platform, or is a secret: not in a file that everybody has.
UNWRITTEN = {
    "adapters_dir",
    "api_key",
    "api_key_file",
    "data_dir",
    "cache_dir",
    "log_file",
    "event_log",
}
# What a domain without clock, log and I/O has no use for.
IMPURE = {
    "asyncio",
    "datetime",
    "io",
    "logging",
    "os",
    "pathlib",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "sys",
    "threading",
    "time",
}

pytestmark = pytest.mark.skipif(not (ROOT / "config").is_dir(), reason="needs a checkout")


def names() -> set[str]:
    return {field.name for field in attrs.fields(Settings)}


def table(file: str) -> dict[str, object]:
    return dict(tomllib.loads((ROOT / "config" / file).read_text())["semantic"])


def imported(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def test_the_default_file_says_what_is_built_in() -> None:
    built_in = {
        name: value for name, value in attrs.asdict(Settings()).items() if name not in UNWRITTEN
    }

    assert {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in table("default.toml").items()
    } == built_in


def test_the_test_file_has_no_unknown_setting() -> None:
    assert set(table("test.toml")) <= names()


def test_the_example_environment_names_every_setting() -> None:
    found = re.findall(
        rf"^#? ?{PREFIX}([A-Z_]+)=", (ROOT / "config" / ".env.example").read_text(), re.MULTILINE
    )

    assert {name.lower() for name in found} - {"environment"} == names()


def test_every_setting_is_in_the_manual() -> None:
    manual = (ROOT / "docs" / "operations.md").read_text()

    assert {name for name in names() if f"`{name}`" not in manual} == set()


def test_every_metric_is_in_the_manual() -> None:
    code, manual = (
        "".join(file.read_text() for file in (PACKAGE / "adapters" / "metrics").glob("*.py")),
        (ROOT / "docs" / "operations.md").read_text(),
    )

    assert {
        name for name in re.findall(r'"(semantic_\w+)"', code) if f"`{name}" not in manual
    } == set()


def test_the_domain_imports_only_the_standard_library_and_attrs() -> None:
    found = {name for file in (PACKAGE / "domain").rglob("*.py") for name in imported(file)}
    outside = {
        name.partition(".")[0] for name in found if not name.startswith("semantic_trio.domain")
    }

    assert outside - {"attrs"} <= sys.stdlib_module_names - IMPURE


def test_every_adapter_is_named_in_the_import_contracts() -> None:
    """So that a new one cannot import MLX, the web framework or a database unseen."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"][
        "contracts"
    ]
    adapters = {
        f"semantic_trio.adapters.{path.stem}"
        for path in (PACKAGE / "adapters").iterdir()
        if not path.name.startswith("_")
    }

    for owner in ("mlx", "http", "store"):
        [contract] = [
            contract
            for contract in contracts
            if contract["name"].startswith(f"Only adapters.{owner} imports ")
        ]
        assert adapters - {f"semantic_trio.adapters.{owner}"} <= set(contract["source_modules"])


def test_the_version_is_in_the_changelog() -> None:
    assert semantic_trio.__version__ in (ROOT / "CHANGELOG.md").read_text()


def test_every_rule_of_the_canonical_prompt_is_told() -> None:
    told = (ROOT / "docs" / "prompts.md").read_text()

    assert [rule.name for rule in RULES if f"| {rule.name} |" not in told] == []


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(
    ("given", "options"),
    [
        (["PORT=8001"], "--port 8001"),
        ([], ""),
        (["PORT=9", "ARGS=--max-batch-size 2"], "--port 9 --max-batch-size 2"),
    ],
)
def test_make_serve_takes_a_port(given: list[str], options: str) -> None:
    environment = {"PATH": os.environ["PATH"]}  # make tells its children what it was told
    shown = subprocess.run(
        ["make", "-n", "serve", *given],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    assert (
        shown.splitlines()[-1].split()
        == f"exec .venv/bin/semantic-trio serve --model smollm2-135m {options}".split()
    )
