"""Settings of single models: tables in configuration files."""

from pathlib import Path

import attrs
import click.testing
import pytest

from semantic_trio.domain.errors import InvalidRequestError
from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.settings import Settings
from semantic_trio.entrypoints.settings_loading import load

SMALL = "org/small"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for field in attrs.fields(Settings):
        monkeypatch.delenv(f"SEMANTIC_{field.name.upper()}", raising=False)
    monkeypatch.delenv("SEMANTIC_ENVIRONMENT", raising=False)


def written(directory: Path, text: str) -> Path:
    file = directory / "mine.toml"
    file.write_text(text)
    return file


def test_a_model_has_the_settings_of_its_table_and_those_of_the_server_for_the_rest(
    tmp_path: Path,
) -> None:
    text = f"""
        [semantic]
        model_id = "org/large"
        context_length = 4096
        model_idle_seconds = 600
        [models."{SMALL}"]
        context_length = 1024
        idle_seconds = 0
        kv_bits = 8
        cache_budget_mb = 256
    """
    loaded = load({}, written(tmp_path, text), tmp_path)
    small, large = loaded.settings_of(SMALL), loaded.settings_of("org/large")

    assert (
        small.context_length,
        small.model_idle_seconds,
        small.kv_bits,
        small.cache_budget_mb,
    ) == (1024, 0, 8, 256)
    assert (
        large.context_length,
        large.model_idle_seconds,
        large.kv_bits,
        large.cache_budget_mb,
    ) == (4096, 600, 16, 0)


def test_a_model_that_has_a_table_is_served(tmp_path: Path) -> None:
    text = (
        f'[semantic]\nmodel_id = "a"\nmodels = ["b"]\n[models.a]\n[models.b]\n[models."{SMALL}"]\n'
    )

    assert load({}, written(tmp_path, text), tmp_path).settings.models == ("b", SMALL)


def test_values_of_a_later_file_win_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text(
        "[models.a]\nkv_bits = 8\ncontext_length = 512\n[models.b]\nkv_bits = 4\n"
    )
    loaded = load({}, written(tmp_path, "[models.a]\nkv_bits = 4\n[models.c]\n"), tmp_path)

    assert loaded.models == {
        "a": {"kv_bits": 4, "context_length": 512},
        "b": {"kv_bits": 4},
        "c": {},
    }


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models = 5", "[models] has tables alone: write [models.NAME]"),
        ("[models]\na = 5", "models.a is no table: write [models.a]"),
        (
            "[models.a]\nkv_bit = 8",
            "models.a.kv_bit is no setting of a model: did you mean kv_bits?",
        ),
        (
            "[models.a]\nport = 8",
            (
                "models.a.port is no setting of a model: it has idle_seconds, context_length, "
                "kv_bits, cache_budget_mb"
            ),
        ),
        ("[models.a]\nkv_bits = 5", "models.a.kv_bits: 5 is none of 16, 8, 4"),
        (
            "[models.a]\nidle_seconds = -1",
            "models.a.idle_seconds: -1.0 is out of range: 0 to 31,536,000",
        ),
        (
            '[models.a]\ncontext_length = "long"',
            "models.a.context_length: 'long' is no whole number",
        ),
        (
            "[models.a]\ncontext_length = 1000.5",
            "models.a.context_length: 1000.5 is no whole number",
        ),
        ("[models.a]\ncontext_length = inf", "models.a.context_length: inf is no whole number"),
        ("[models.a]\nidle_seconds = true", "models.a.idle_seconds: True is no number"),
        ("[models]\n'org/a' = 5", 'models."org/a" is no table: write [models."org/a"]'),
        (
            "[models.Qwen3-0.6B]\nkv_bits = 8",
            (
                "models.Qwen3-0.6B is no setting of a model: a name with a dot or a slash stands "
                'in quotes: [models."NAME"]'
            ),
        ),
        (
            '[semantic]\naliases = ["a=b"]\n[models.a]',
            "models.a is the table of an alias: give it the name of the model",
        ),
    ],
)
def test_a_table_that_is_wrong_is_refused_in_one_line(
    text: str, problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        load({}, written(tmp_path, text), tmp_path)

    assert problem in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_settings_of_models_are_printed(tmp_path: Path) -> None:
    file = written(tmp_path, f'[models."{SMALL}"]\nkv_bits = 8\nidle_seconds = 60\n')
    printed = click.testing.CliRunner().invoke(main, ["config", "--config", str(file)]).output

    assert f"models.{SMALL}.idle_seconds 60" in printed
    assert f"models.{SMALL}.kv_bits 8" in printed
