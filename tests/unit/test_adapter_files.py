"""Adapters in a directory: which are there, and for which model."""

import json
from pathlib import Path

import pytest

from semantic_trio.adapters.catalogue.adapter_files import adapters_in, digest_of
from semantic_trio.domain.model_names import ModelNames
from semantic_trio.domain.salt import NO_ADAPTER, NO_SALT, adapted, adapter_of, own_part, salt_of


def adapter(directory: Path, name: str, config: object = None, weights: bytes = b"weights") -> Path:
    path = directory / name
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({} if config is None else config))
    (path / "adapters.safetensors").write_bytes(weights)
    return path


def test_adapters_are_directories_that_hold_a_file_of_one(tmp_path: Path) -> None:
    adapter(tmp_path, "german")
    adapter(tmp_path, "a:b")  # no request could name it
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("not a directory")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "adapters.safetensors").write_bytes(b"")

    assert [files.name for files in adapters_in(tmp_path, "org/tiny", None)] == ["cut", "german"]
    assert adapters_in(tmp_path / "none", "org/tiny", None) == []


@pytest.mark.parametrize(
    ("base", "model", "fits"),
    [
        ("org/Tiny", "org/tiny", True),
        ("mirror/tiny", "org/tiny", True),
        ("./models/tiny", "org/tiny", True),
        ("org/large", "org/tiny", False),
        ("", "org/tiny", True),
        (7, "org/tiny", True),
    ],
)
def test_an_adapter_fits_the_model_that_it_was_trained_on(
    base: object, model: str, fits: bool, tmp_path: Path
) -> None:
    adapter(tmp_path, "german", {"model": base})

    [found] = adapters_in(tmp_path, model, None)

    assert found.fits is fits


@pytest.mark.parametrize("base", ["~nobody-of-this-name/model", "a\0b", "x" * 5000])
def test_an_adapter_of_a_path_that_cannot_be_hides_no_other(base: str, tmp_path: Path) -> None:
    adapter(tmp_path, "german", {"model": base})
    adapter(tmp_path, "latin", {"model": "org/tiny"})

    found = adapters_in(tmp_path, "org/tiny", tmp_path)

    assert {files.name: files.fits for files in found} == {"german": False, "latin": True}


def test_an_adapter_fits_the_directory_that_it_was_trained_on_under_any_name(
    tmp_path: Path,
) -> None:
    model = tmp_path / "models" / "tiny-v2"
    model.mkdir(parents=True)
    adapter(
        tmp_path / "adapters",
        "german",
        {"model": str(tmp_path / "models" / ".." / "models" / "tiny-v2")},
    )

    assert [
        [files.fits for files in adapters_in(tmp_path / "adapters", "tiny", path)]
        for path in (model, tmp_path)
    ] == [[True], [False]]


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_configuration_that_cannot_be_read_is_left_to_whoever_loads_it(
    text: str, tmp_path: Path
) -> None:
    (adapter(tmp_path, "german") / "adapter_config.json").write_text(text)

    assert [files.fits for files in adapters_in(tmp_path, "org/tiny", None)] == [True]


def test_a_digest_depends_on_the_content_of_both_files_and_on_nothing_else(tmp_path: Path) -> None:
    paths = [
        adapter(tmp_path, "a"),
        adapter(tmp_path, "b"),
        adapter(tmp_path, "c", {"rank": 4}),
        adapter(tmp_path, "d", weights=b"other"),
    ]

    first, same, *others = map(digest_of, paths)

    assert first == same
    assert len({first, *others}) == 3
    assert len(first) == 16


def test_a_salt_has_one_adapter_at_a_time_and_keeps_the_own_part() -> None:
    own, one, other = salt_of("mine"), b"1" * 16, b"2" * 16

    salts = {
        adapted(salt, digest) for salt in (NO_SALT, own) for digest in (NO_ADAPTER, one, other)
    }

    assert len(salts) == 6
    assert adapted(adapted(own, one), other) == adapted(own, other)
    assert [(own_part(salt), adapter_of(salt)) for salt in (adapted(own, one), adapted(NO_SALT, one), own, NO_SALT)] == [
        (own, one), (NO_SALT, one), (own, NO_ADAPTER), (NO_SALT, NO_ADAPTER)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("org/tiny:german", ("org/tiny", "german")),
        ("fast:german", ("fast", "german")),
        ("claude-opus-4:german", ("claude-opus-4", "german")),
        ("qwen:7b", ("qwen:7b", "")),
        ("qwen:7b:german", ("qwen:7b", "german")),
        ("own:alias", ("own:alias", "")),
        ("org/tiny", ("org/tiny", "")),
        (":german", (":german", "")),
        ("org/tiny:", ("org/tiny:", "")),
    ],
)
def test_a_name_ends_with_an_adapter_unless_all_of_it_is_a_model(
    name: str, parts: tuple[str, str]
) -> None:
    assert (
        ModelNames("org/tiny", ("qwen:7b",), {"fast": "org/tiny", "own:alias": "org/tiny"}).apart(
            name
        )
        == parts
    )
