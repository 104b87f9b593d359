"""The commit that a server says it runs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from semantic_trio.entrypoints.commit import commit

IDENTITY = (
    "-c",
    "user.name=Ada",
    "-c",
    "user.email=ada@example.org",
    "-c",
    "commit.gpgsign=false",
    "-c",
    "core.hooksPath=/dev/null",
)


def git(directory: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(directory), *IDENTITY, *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package in a clean checkout."""
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    # set where tests are run by a hook of git
    for name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):
        monkeypatch.delenv(name, raising=False)
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "Begin")
    return package


def test_a_clean_checkout_has_the_commit_of_its_head(package: Path) -> None:
    assert commit(package) == git(package, "rev-parse", "--short=12", "HEAD")


def test_a_changed_checkout_is_dirty(package: Path) -> None:
    head = git(package, "rev-parse", "--short=12", "HEAD")
    (package / "__init__.py").write_text("changed = True")

    assert commit(package) == f"{head}-dirty"


def test_a_package_installed_into_a_checkout_of_something_else_has_no_commit(package: Path) -> None:
    installed = package.parent / "site-packages"
    installed.mkdir()
    (installed / "__init__.py").write_text("")

    assert commit(installed) == ""


def test_without_git_there_is_no_commit(
    package: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    assert commit(package) == ""
