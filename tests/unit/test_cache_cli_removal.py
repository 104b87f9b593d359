"""The commands that free disk space: prune and rm."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from semantic_trio.adapters.disk import CacheDirectory
from semantic_trio.adapters.disk.directory import to_be_given_up
from semantic_trio.domain.content import Item, Kind, Tensor
from semantic_trio.entrypoints.exits import ExitCode
from tests.unit.cache_commands import ONE, TWO, Cache, damage, held, tokens_here


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.chdir(tmp_path)
    yield Cache(tmp_path / "cache")
    structlog.reset_defaults()
    logging.basicConfig(handlers=[], force=True)


# -------------------------------------------------------------------------------------------- prune


def test_what_nothing_leads_to_is_deleted_and_nothing_else(cache: Cache) -> None:
    cache.remember("ada", 1)
    kept = cache.paths("memory/**/*.safetensors")
    for kind in Kind:
        cache.files().write(Item(kind, bytes(32)), {})
    (kept[0].parent / ".tmp-x").write_bytes(b"begun")
    (cache.root / ".tmp-y").write_bytes(b"begun")

    lines = cache.run("cache", "prune").output.splitlines()

    assert cache.paths("memory/**/*") == kept
    assert lines[0].split() == ["unfinished", "2", "files", "10", "B"]
    assert lines[1].split()[:6] == ["of", "no", "agent,", "org/tiny", "2", "files"]
    assert cache.run("cache", "verify").exit_code == 0


def test_the_quarantine_is_emptied_when_asked(cache: Cache) -> None:
    cache.remember("ada", 1)
    damage(cache.paths("blocks/*/*.safetensors")[0])
    cache.run("cache", "verify")

    cache.run("cache", "prune")
    before = len(cache.paths("quarantine/*"))
    cache.run("cache", "prune", "--quarantine")

    assert (before, len(cache.paths("quarantine/*"))) == (2, 0)


@pytest.mark.parametrize(
    ("limit_blocks", "left"),
    [
        (5, (522, 556)),
        (4, (512, 556)),
        (3, (256, 556)),
        (2, (256, 512)),
        (1, (256, 256)),
        (0, (0, 0)),
    ],
)
def test_agents_give_up_what_is_theirs_alone_and_no_more_than_has_to(
    cache: Cache, limit_blocks: int, left: tuple[int, int]
) -> None:
    """Least recently used first, and the ends of their histories first.

    What both lead to goes last.
    """
    cache.remember("ada", 1)
    cache.remember("eve", 2)
    model = CacheDirectory(cache.root).models()[0]
    records = model.bytes - sum(model.sizes.values())
    per_block = sum(model.sizes.values()) // 5 + 1

    for one, item in to_be_given_up([model], records + limit_blocks * per_block):
        one.remove([item])

    assert (tokens_here(cache, "ada"), tokens_here(cache, "eve")) == left


def test_a_limit_in_megabytes_is_kept_to(cache: Cache) -> None:
    for used, agent in enumerate(["ada", "eve", *(f"agent-{n}" for n in range(3))]):
        cache.remember(agent, used)
    cache.files().write(
        Item(Kind.BLOCK, bytes(32)), {"a": Tensor("U8", (2 << 20,), memoryview(bytes(2 << 20)))}
    )

    roomy, tight = (
        cache.run("cache", "prune", "--to-mb", "1"),
        cache.run("cache", "prune", "--to-mb", "0"),
    )

    assert (roomy.exit_code, tight.exit_code) == (0, 1), "records stay"
    assert [
        line.split()[2] for line in roomy.output.splitlines() if line.startswith("of agents")
    ] == ["0"]
    assert (tokens_here(cache, "ada"), len(cache.files().agents())) == (0, 5)


def test_pinned_agents_keep_what_they_have_and_that_is_told(cache: Cache) -> None:
    cache.remember("ada", 1, is_pinned=True)
    cache.remember("eve", 2)

    result = cache.run("cache", "prune", "--to-mb", "0")

    assert result.exit_code == 1
    assert "pinned agents take more than 0 MiB" in result.stderr
    assert (tokens_here(cache, "ada"), tokens_here(cache, "eve")) == (522, 256)


@pytest.mark.parametrize("command", [["cache", "prune"], ["cache", "rm", "--all", "--yes"]])
def test_nothing_is_deleted_under_a_server(cache: Cache, command: list[str]) -> None:
    cache.remember("ada", 1)
    cache.files().write(Item(Kind.BLOCK, bytes(32)), {})
    before = cache.paths("*.safetensors")

    with held(cache):
        result = cache.run(*command)

    assert result.exit_code == ExitCode.USAGE
    assert result.stderr == (
        f"semantic-trio: the cache in {cache.root} is in use by pid 7, org/tiny on "
        "http://127.0.0.1:9\n"
    )
    assert cache.paths("*.safetensors") == before


# ----------------------------------------------------------------------------------------------- rm


@pytest.mark.parametrize("called", ["org/tiny", ONE[:8], ONE])
def test_a_model_is_forgotten_by_its_name_or_fingerprint(cache: Cache, called: str) -> None:
    cache.remember("ada", 1)
    cache.remember("ada", 1, TWO, "another")

    result = cache.run("cache", "rm", called, stdin="y\n")

    assert result.exit_code == 0
    assert [model.name for model in CacheDirectory(cache.root).models()] == ["another"]


def test_who_does_not_confirm_keeps_it(cache: Cache) -> None:
    cache.remember("ada", 1)

    result = cache.run("cache", "rm", "org/tiny", stdin="n\n")

    assert "org/tiny" in result.output
    assert result.exit_code == 1
    assert len(CacheDirectory(cache.root).models()) == 1


def test_all_is_all(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.remember("ada", 1, TWO, "another")
    damage(cache.paths("blocks/*/*.safetensors")[0])
    cache.run("cache", "verify")

    assert cache.run("cache", "rm", "--all", "--yes").exit_code == 0

    assert cache.paths("*.safetensors") == []
    assert cache.paths("quarantine/*") == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "name a model, or say --all"),
        (["org/tiny", "--all"], "name a model, or say --all"),
        (["nobody"], "has no memory"),
        (["ab"], "has no memory"),
    ],
)
def test_what_names_no_model_forgets_none(cache: Cache, arguments: list[str], said: str) -> None:
    cache.remember("ada", 1)

    result = cache.run("cache", "rm", *arguments, "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert said in result.stderr


def test_two_models_that_begin_alike_are_not_forgotten_together(cache: Cache) -> None:
    cache.remember("ada", 1)
    # in the same directory by name: as if it were another's
    cache.remember("ada", 1, "ab" * 31 + "cd", "another")
    cache.remember("ada", 1, "ab" * 8 + "cd" * 24, "third")

    result = cache.run("cache", "rm", "abab", "--yes")

    assert result.exit_code == ExitCode.USAGE
    assert "abab may be" in result.stderr
