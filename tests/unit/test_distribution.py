"""The wheel and the sdist: what people install. Built without a network."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import attrs
import pytest

from semantic_trio.entrypoints.settings import Settings

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="needs a checkout or an sdist"
)


def built(kind: str, source: Path, into: Path) -> Path:
    """A distribution of a directory."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(into)],
        cwd=source,
        check=True,
        capture_output=True,
    )
    [path] = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return path


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist."""
    directory = tmp_path_factory.mktemp("sdist")
    with tarfile.open(built("sdist", ROOT, directory)) as archive:
        archive.extractall(directory, filter="data")
    [unpacked] = (path for path in directory.iterdir() if path.is_dir())
    return unpacked


@pytest.fixture(scope="module")
def wheel(sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel that pip makes of the sdist."""
    return zipfile.ZipFile(built("wheel", sdist, tmp_path_factory.mktemp("wheel")))


def test_the_wheel_holds_every_file_of_the_package_and_nothing_of_the_tests(
    wheel: zipfile.ZipFile,
) -> None:
    package = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "semantic_trio").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    names = set(wheel.namelist())

    assert {
        name for name in names if not re.match(r"semantic_trio-[^/]+\.(dist-info|data)/", name)
    } == package
    assert {
        "semantic_trio/py.typed",
        "semantic_trio/adapters/http/dashboard/static/index.html",
    } <= names


def test_the_wheel_brings_licences_the_settings_and_the_grafana_dashboard(
    wheel: zipfile.ZipFile,
) -> None:
    beside = {
        name.partition("/")[2] for name in wheel.namelist() if not name.startswith("semantic_trio/")
    }

    assert {"licenses/LICENSE", "licenses/NOTICE"} <= beside
    assert {name for name in beside if name.startswith("data/")} == {
        "data/share/semantic-trio/default.toml",
        "data/share/semantic-trio/grafana/semantic-trio.json",
    }


def test_the_wheel_is_for_every_platform_and_starts_the_command(wheel: zipfile.ZipFile) -> None:
    text = {
        name.rpartition("/")[2]: wheel.read(name).decode()
        for name in wheel.namelist()
        if ".dist-info/" in name
    }

    assert "Tag: py3-none-any" in text["WHEEL"]
    assert "semantic-trio = semantic_trio.entrypoints.cli:main" in text["entry_points.txt"]
    needed = [
        line.split()[1]
        for line in text["METADATA"].splitlines()
        if line.startswith("Requires-Dist:") and "extra ==" not in line
    ]
    assert not any(name.startswith(("pytest", "hatchling", "mypy", "ruff")) for name in needed)


def test_the_container_file_in_the_sdist_names_settings_that_there_are(sdist: Path) -> None:
    text = (sdist / "packaging" / "Containerfile").read_text()
    named = {name.lower() for name in re.findall(r"SEMANTIC_([A-Z_]+)=", text)}

    assert (
        {"host", "allow_remote", "data_dir", "cache_dir"}
        < named
        <= {field.name for field in attrs.fields(Settings)}
    )
    assert set(re.findall(r"^ARG (\w+)", text, re.MULTILINE)) == {"BASE", "BACKEND"}


def test_the_formula_has_two_places_to_fill_and_make_fills_them(sdist: Path) -> None:
    formula, makefile = (
        (sdist / "packaging" / "homebrew" / "semantic-trio.rb.in").read_text(),
        (sdist / "Makefile").read_text(),
    )

    assert re.findall(r"@\w+@", formula.partition("class ")[2].replace("python@3.13", "")) == [
        "@URL@",
        "@SHA256@",
    ]
    assert all(f"s|{place}|" in makefile for place in ("@URL@", "@SHA256@"))
