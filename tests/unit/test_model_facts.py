"""Sizes of the models on this machine, and whether they fit."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from semantic_trio.adapters.catalogue.catalogue import Catalogue, ListedModel
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.entrypoints import catalogue_cli, model_facts
from semantic_trio.entrypoints.cli import main
from semantic_trio.entrypoints.model_facts import ModelFacts, facts_of
from semantic_trio.entrypoints.settings import Settings

GIB = 1 << 30
CONFIG = {
    "model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 300, "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "torch_dtype": "float32",
}  # fmt: skip


def model_in(path: Path, config: object = CONFIG) -> Path:
    """A directory of a model, whose weights are a file of 1,000 bytes."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(b"w" * 1000)
    return path


@pytest.mark.parametrize(
    ("weights", "agent", "free", "fits"),
    [
        (4, 1, 8, True),
        (7, 0.1, 8, False),
        (6, 3, 8, False),
        (6, None, 8, True),
        (100, 1, None, None),
    ],
)
def test_a_model_fits_with_its_weights_and_an_agent(
    weights: float, agent: float | None, free: int | None, fits: bool | None
) -> None:
    agent_bytes, free_bytes = (
        None if agent is None else int(agent * GIB),
        None if free is None else free * GIB,
    )

    assert (
        ModelFacts("llama", 4096, GIB, int(weights * GIB), agent_bytes, None, free_bytes).fits
        is fits
    )


def test_what_is_not_known_is_a_dash() -> None:
    assert ModelFacts("odd", 4096, 1000, GIB, None, None, None).cells("org/odd") == (
        "org/odd",
        "odd",
        "4,096",
        "1000 B",
        "1.0 GiB",
        "-",
        "-",
        "-",
    )


def test_facts_are_those_of_the_configuration_and_the_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_facts, "weight_bytes", lambda path: 5000)
    monkeypatch.setattr(model_facts, "free_bytes", lambda: 1_000_000)

    facts = facts_of("tiny", model_in(tmp_path / "tiny"), Settings(cache_budget_mb=64))

    token_bytes = 2 * 2 * 2 * 16 * 4  # keys and values, layers, heads, their size, float32
    assert (facts.family, facts.context_length, facts.disk_bytes, facts.weight_bytes) == (
        "llama",
        4096,
        1000,
        5000,
    )
    assert facts.agent_bytes is not None
    assert facts.agent_bytes >= 8192 * token_bytes
    assert facts.agents == 64 * 2**20 // facts.agent_bytes
    assert facts.cells("tiny")[-1].startswith("no: ")


@pytest.mark.parametrize("text", ["{", ""])
def test_a_configuration_that_cannot_be_read_is_said(text: str, tmp_path: Path) -> None:
    (model_in(tmp_path / "tiny") / "config.json").write_text(text)

    with pytest.raises(ModelNotFoundError, match="it cannot be read"):
        facts_of("tiny", tmp_path / "tiny", Settings())


def test_models_here_are_a_table_and_those_that_cannot_be_read_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = model_in(tmp_path / "good"), model_in(tmp_path / "bad")
    (bad / "config.json").write_text("{")
    entries = [
        ListedModel("org/good", good, ""),
        ListedModel("org/bad", bad, ""),
        ListedModel("toy", None, "a toy"),
    ]
    monkeypatch.setattr(Catalogue, "entries", lambda _: iter(entries))
    monkeypatch.setattr(model_facts, "weight_bytes", lambda path: 5000)
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(tmp_path / "data"))

    lines = CliRunner().invoke(main, ["models", "list"]).output.splitlines()

    assert lines[0].split("  ")[0] == "model"
    assert lines[1].split()[:6] == ["org/good", "llama", "4,096", "1000", "B", "4.9"]
    assert lines[2].startswith("model: org/bad (it cannot be read")
    assert any(line.split() == ["toy", "a", "toy"] for line in lines)


def test_a_model_is_listed_with_the_settings_of_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [
        ListedModel(name, model_in(tmp_path / name, CONFIG | {"head_dim": 64}), "")
        for name in ("plain", "own")
    ]
    monkeypatch.setattr(Catalogue, "entries", lambda _: iter(entries))
    monkeypatch.setattr(model_facts, "weight_bytes", lambda path: 5000)
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "default.toml").write_text(
        "[semantic]\ncache_budget_mb = 64\n"
        "[models.own]\ncontext_length = 1024\ncache_budget_mb = 128\nkv_bits = 8\n"
    )
    monkeypatch.chdir(tmp_path)

    lines = CliRunner().invoke(main, ["models", "list"]).output.splitlines()

    plain, own = lines[1].split(), lines[2].split()
    assert (plain[0], plain[2], own[0], own[2]) == ("plain", "4,096", "own", "1,024")
    agent, own_agent = float(plain[7]), float(own[7])
    assert own_agent < 0.6 * agent, "8 bits of a number instead of 32 or 16"
    assert int(own[9]) > 2 * int(plain[9]), "in twice the cache"


def test_removing_a_model_says_what_it_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEMANTIC_DATA_DIR", str(tmp_path / "data"))
    absent = CliRunner().invoke(main, ["models", "rm", "smollm2-135m"])
    monkeypatch.setattr(Catalogue, "remove", lambda _, name: 3 * GIB)

    removed = CliRunner().invoke(catalogue_cli.remove_model, ["smollm2-135m"])

    assert absent.exit_code != 0
    assert "not on this machine" in absent.output
    assert (removed.exit_code, removed.output) == (0, "smollm2-135m: 3.0 GiB are free again\n")
