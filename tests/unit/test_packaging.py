"""The container file and the Homebrew formula, as far as they can be judged without a container
engine and without Homebrew: their form, and that they say what the package says.
"""

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import attrs
import click
import pytest
from trio.testing import MockClock

from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.testing import FakeRunner
from tests.http.serving import get, running, served

ROOT = Path(__file__).parents[2]
CONTAINERFILE = ROOT / "packaging" / "Containerfile"
FORMULA = ROOT / "packaging" / "homebrew" / "semantic-trio.rb.in"
INSTRUCTIONS = {
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "RUN",
    "USER",
    "VOLUME",
    "WORKDIR",
}
# Homebrew's bound for a description.
DESCRIPTION_CHARACTERS = 80

pytestmark = pytest.mark.skipif(not CONTAINERFILE.is_file(), reason="needs a checkout or an sdist")


@attrs.frozen
class Instruction:
    """An instruction of a container file, its continued lines joined."""

    name: str
    text: str


def instructions() -> list[Instruction]:
    lines = [line for line in CONTAINERFILE.read_text().splitlines() if not line.startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(maxsplit=1) for line in joined.splitlines() if line.strip()]
    return [Instruction(name, text) for name, text in split]


def texts(name: str) -> list[str]:
    return [one.text for one in instructions() if one.name == name]


def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return found


def python_versions() -> set[str]:
    """The versions that the package is for."""
    named = (one.rpartition(" :: ")[2] for one in project()["classifiers"])
    return {name for name in named if re.fullmatch(r"3\.\d+", name)}


# ---------------------------------------------------------------------------------------- container


def test_the_container_file_has_instructions_that_there_are_and_shell_that_parses() -> None:
    assert {one.name for one in instructions()} <= INSTRUCTIONS
    for script in texts("RUN"):
        subprocess.run(["sh", "-n", "-c", script], check=True)


def test_the_image_is_of_a_named_version_of_a_python_that_the_package_is_for() -> None:
    [base] = [text for text in texts("ARG") if text.startswith("BASE=")]
    image, _, tag = base.removeprefix("BASE=").partition(":")

    assert image == "python"
    assert tag.split("-")[0] in python_versions()
    assert [text.split()[0] for text in texts("FROM")] == ["${BASE}"] * 2


def test_what_is_copied_from_a_stage_is_made_there_and_is_on_the_path() -> None:
    stages = {text.split()[2] for text in texts("FROM") if " AS " in text}
    [copied] = [text for text in texts("COPY") if text.startswith("--from=")]
    stage, source, target = copied.removeprefix("--from=").split()
    [environment] = texts("ENV")

    assert stage in stages
    assert source == target, "scripts of a virtual environment name its directory"
    assert f"venv {source}" in " ".join(texts("RUN"))
    assert f"PATH={target}/bin:$PATH" in environment


def test_packages_leave_nothing_behind_that_is_not_needed() -> None:
    for script in texts("RUN"):
        if "apt-get install" in script:
            assert "apt-get update &&" in script
            assert "--no-install-recommends" in script
            assert "rm -rf /var/lib/apt/lists/*" in script
        assert script.count("pip install") == script.count("pip install --no-cache-dir")


def test_the_container_installs_the_blas_that_make_installs_and_the_cuda_of_the_extra() -> None:
    scripts, makefile = " ".join(texts("RUN")), (ROOT / "Makefile").read_text()
    [cuda] = [one for one in project()["optional-dependencies"]["cuda"] if one.startswith("mlx[")]

    assert "libopenblas0-pthread" in scripts
    assert "libopenblas0-pthread" in makefile
    assert re.split(r"[=<>;]", cuda)[0] in scripts
    assert all("mlx-cuda-13==" in text for text in (scripts, makefile))


def test_the_server_in_the_container_is_no_root_and_is_the_command_of_the_package() -> None:
    order = [one.name for one in instructions()]
    [user], [entry] = texts("USER"), texts("ENTRYPOINT")

    assert user != "root"
    assert f"useradd --create-home --uid 1000 {user}" in " ".join(texts("RUN"))
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert [text.strip('"') for text in entry.strip("[]").split(", ")] == [*project()["scripts"]]
    assert texts("CMD") == ['["serve"]']


async def test_the_health_check_asks_the_port_and_a_path_that_there_are(
    autojump_clock: MockClock,
) -> None:
    [check] = texts("HEALTHCHECK")
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/[\w/]+)", check)
    assert found is not None

    async with running(served(FakeRunner())) as server:
        answer = await get(server.app, found[2])

    assert int(found[1]) == Settings().port
    assert texts("EXPOSE") == [found[1]]
    assert answer.status == 200


def test_the_stop_timeout_of_the_manual_is_above_that_of_the_server() -> None:
    for path in (CONTAINERFILE, ROOT / "docs" / "installation.md"):
        if path.is_file():
            [seconds] = re.findall(r"--stop-timeout (\d+)", path.read_text())
            assert int(seconds) > Settings().shutdown_timeout_seconds


# ------------------------------------------------------------------------------------------ formula


def formula() -> str:
    return FORMULA.read_text()


def of_formula(pattern: str) -> str:
    [found] = re.findall(pattern, formula(), re.MULTILINE)
    return str(found)


def test_the_formula_is_ruby() -> None:
    ruby = shutil.which("ruby")
    if ruby is None:
        pytest.skip("needs Ruby")
    subprocess.run([ruby, "-wc", str(FORMULA)], check=True, capture_output=True)


def test_every_block_of_the_formula_ends() -> None:
    lines = [line.strip() for line in formula().splitlines() if not line.startswith("#")]
    opened = [
        line for line in lines if re.match(r"(class|def) ", line) or line.endswith((" do", " then"))
    ]

    assert len(opened) == lines.count("end")


def test_the_formula_is_named_and_described_as_homebrew_wants_it() -> None:
    name, described = project()["name"], of_formula(r'^  desc "(.*)"$')

    assert of_formula(r"^class (\w+) < Formula$") == "".join(map(str.capitalize, name.split("-")))
    assert f"{name}.rb.in" == FORMULA.name
    assert len(f"{name}: {described}") <= DESCRIPTION_CHARACTERS
    assert described[0].isupper()
    assert not described.endswith(".")
    assert not described.lower().startswith(("a ", "an ", "the ", name))


def test_licence_python_and_commands_of_the_formula_are_those_of_the_package() -> None:
    called = shlex.split(of_formula(r'shell_output\("#\{bin\}/semantic-trio (\w+)"\)'))

    assert of_formula(r'^  license "(.*)"$') == project()["license"]
    assert of_formula(r'^  depends_on "python@(.*)"$') in python_versions()
    assert set(re.findall(r'bin/"python([\d.]+)"', formula())) <= python_versions()
    assert set(re.findall(r'bin/"([a-z-]+)"', formula())) - {"python"} == {*project()["scripts"]}
    assert isinstance(main, click.Group)
    assert {*called, "serve", "completion"} <= main.commands.keys()
