"""The commands that look at what is on disk, tidy it up, and carry agents about."""

import errno
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest
import structlog

from semantic_trio.adapters.disk import held_by
from tests.unit.cache_commands import ONE, TWO, Cache, damage, held


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cache]:
    monkeypatch.chdir(tmp_path)
    yield Cache(tmp_path / "cache")
    structlog.reset_defaults()
    logging.basicConfig(handlers=[], force=True)


# ----------------------------------------------------------------------------------------------- ls


def test_a_directory_that_is_not_there_holds_nothing_and_is_not_made(cache: Cache) -> None:
    assert cache.facts("cache", "ls") == {
        "directory": str(cache.root),
        "quarantine": "0 files, 0 B",
        "in": "use by   nobody",
    }
    for command in (["cache", "verify"], ["agents", "ls"]):
        assert cache.run(*command).exit_code == 0
    assert cache.paths("*.safetensors") == []


def test_models_are_listed_with_what_they_have(cache: Cache) -> None:
    cache.remember("ada", 1)
    cache.remember("eve", 2)
    cache.remember("ada", 1, TWO, "another")

    lines = [line.split(None, 1) for line in cache.run("cache", "ls").output.splitlines()]

    assert [tuple(line) for line in lines[:6]] == [
        ("model", "another"), ("fingerprint", TWO[:12]), ("agents", "1"), ("blocks", "3"), ("marks", "0"), ("bytes", lines[5][1]),
    ]  # fmt: skip
    assert [line[1] for line in lines[7:12]] == ["org/tiny", ONE[:12], "2", "5", "0"]
    assert lines[5][1].endswith("KiB")


def test_who_holds_the_lock_is_named_as_long_as_it_does(cache: Cache) -> None:
    with held(cache):
        assert cache.facts("cache", "ls")["in"] == "use by   pid 7, org/tiny on http://127.0.0.1:9"
        (cache.root / "lock.holder").unlink()
        assert held_by(cache.root) == "another process"
    assert cache.facts("cache", "ls")["in"] == "use by   nobody"


def test_who_was_killed_holds_nothing(cache: Cache) -> None:
    cache.root.mkdir()
    (cache.root / "lock").touch()
    (cache.root / "lock.holder").write_text("pid 7")

    assert held_by(cache.root) is None


def test_to_ask_who_holds_the_lock_turns_nobody_away(cache: Cache) -> None:
    cache.root.mkdir()
    (cache.root / "lock").touch()
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            held_by(cache.root)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for _ in range(50):
            with held(cache):
                pass
    finally:
        stop.set()
        thread.join()


def test_a_model_whose_first_files_are_damaged_is_known_by_the_others(cache: Cache) -> None:
    cache.remember("ada", 1)
    for path in cache.paths("agents/*.safetensors"):
        damage(path)

    assert cache.facts("cache", "ls")["model"] == "org/tiny"


def test_a_model_without_a_whole_file_is_unknown(cache: Cache) -> None:
    cache.remember("ada", 1)
    for path in cache.paths("*.safetensors"):
        damage(path)

    facts = cache.facts("cache", "ls")

    assert (facts["model"], facts["fingerprint"]) == ("unknown", ONE[:12])


def test_what_a_file_says_is_not_acted_upon_by_a_terminal(cache: Cache) -> None:
    cache.remember("ada", 1, model="evil\x1b[2Jmodel")

    assert cache.facts("cache", "ls")["model"] == "evil?[2Jmodel"


# ------------------------------------------------------------------------------------------- verify


def test_what_is_whole_is_told_so(cache: Cache) -> None:
    cache.remember("ada", 1)

    assert cache.facts("cache", "verify") == {"read": "4 files", "damaged": "0 files"}


def test_what_is_damaged_is_told_and_put_aside(cache: Cache) -> None:
    cache.remember("ada", 1)
    files = [cache.paths("blocks/*/*.safetensors")[0], cache.paths("agents/*.safetensors")[0]]
    for path in files:
        damage(path)

    result = cache.run("cache", "verify")

    assert result.exit_code == 1
    told = [line for line in result.output.splitlines() if line.startswith("damaged  ")]
    assert [path.name in line for path, line in zip(files, told, strict=False)] == [True, True]
    assert all(line.endswith("; put aside") and "checksum" in line for line in told[:2])
    assert [path.exists() for path in files] == [False, False]
    assert len(cache.paths("quarantine/*.safetensors")) == 2
    assert cache.facts("cache", "verify")["damaged"] == "0 files"


def test_beside_a_server_it_only_tells(cache: Cache) -> None:
    cache.remember("ada", 1)
    path = cache.paths("blocks/*/*.safetensors")[0]
    damage(path)

    with held(cache):
        result = cache.run("cache", "verify")

    assert result.exit_code == 1
    assert "stays where it is, for pid 7" in result.output
    assert path.exists()


def test_a_file_under_anothers_name_is_damaged(cache: Cache) -> None:
    cache.remember("ada", 1)
    one, other, *_ = cache.paths("blocks/*/*.safetensors")
    one.write_bytes(other.read_bytes())

    assert f"is named {other.stem}" in cache.run("cache", "verify").output


def test_a_record_that_is_not_of_its_blocks_is_damaged(cache: Cache) -> None:
    record = cache.remember("ada", 1)
    cache.files().write_agent(attrs.evolve(record, chain=bytes(32)))

    assert "its tokens are not those of its blocks" in cache.run("cache", "verify").output


def test_what_cannot_be_read_is_told_and_stays(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    cache.remember("ada", 1)
    before = cache.paths("*.safetensors")
    monkeypatch.setattr("semantic_trio.adapters.disk.format.read_raw", fail)

    result = cache.run("cache", "verify")

    assert result.exit_code == 1
    assert result.output.count("Input/output error\n") == 3
    assert cache.paths("*.safetensors") == before
