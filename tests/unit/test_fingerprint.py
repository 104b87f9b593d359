"""What tells one model from another, and what does not."""

import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from semantic_trio.adapters.mlx import fingerprint as fingerprints
from semantic_trio.adapters.mlx.fingerprint import fingerprint

ARRAYS = 40
ARRAY_BYTES = 500


@pytest.fixture(params=["whole", "sampled"])
def model(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two files of weights: small ones are read as a whole, of large ones samples."""
    if request.param == "sampled":
        monkeypatch.setattr(fingerprints, "PIECES", 8)
        monkeypatch.setattr(fingerprints, "PIECE_BYTES", 64)
        monkeypatch.setattr(fingerprints, "MIDDLE_BYTES", 16)
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama"}')
    for shard in ("model-00001-of-00002", "model-00002-of-00002"):
        (directory / f"{shard}.safetensors").write_bytes(weights())
    return directory


def weights() -> bytes:
    entries = {
        f"w{i}": {
            "dtype": "U8",
            "shape": [ARRAY_BYTES],
            "data_offsets": [i * ARRAY_BYTES, (i + 1) * ARRAY_BYTES],
        }
        for i in range(ARRAYS)
    }
    header = json.dumps(entries | {"__metadata__": {"format": "mlx"}}).encode()
    return (
        struct.pack("<Q", len(header))
        + header
        + bytes(i % 251 for i in range(ARRAYS * ARRAY_BYTES))
    )


def change(file: Path, start: int, count: int) -> None:
    content = bytearray(file.read_bytes())
    content[start : start + count] = bytes(255 - byte for byte in content[start : start + count])
    file.write_bytes(content)


def test_it_is_the_same_wherever_and_whenever(model: Path, tmp_path: Path) -> None:
    """Also where the files are links into a cache, as the Hub's are, and were written in another
    order.
    """
    elsewhere = tmp_path / "deep" / "elsewhere"
    elsewhere.mkdir(parents=True)
    for file in sorted(model.iterdir(), reverse=True):
        shutil.copyfile(file, tmp_path / file.name)
        os.utime(tmp_path / file.name, (1, 1))
        (elsewhere / file.name).symlink_to(tmp_path / file.name)
    (elsewhere / "README.md").write_text("about")

    assert fingerprint(elsewhere, "float16") == fingerprint(model, "float16")


def test_it_is_a_sha256(model: Path) -> None:
    assert len(bytes.fromhex(fingerprint(model, "float16"))) == 32


def test_another_precision_is_another_model(model: Path) -> None:
    assert fingerprint(model, "float16") != fingerprint(model, "float32")


def test_another_configuration_is_another_model(model: Path) -> None:
    before = fingerprint(model, "float16")
    (model / "config.json").write_text('{"model_type": "llama", "rope_theta": 5}')

    assert fingerprint(model, "float16") != before


@pytest.mark.parametrize("array", [0, 7, ARRAYS - 1])
def test_a_fine_tune_of_one_array_is_another_model(model: Path, array: int) -> None:
    """Even where no evenly spaced sample meets it."""
    before = fingerprint(model, "float16")
    file = model / "model-00002-of-00002.safetensors"
    change(file, file.stat().st_size - (ARRAYS - array) * ARRAY_BYTES, ARRAY_BYTES)

    assert fingerprint(model, "float16") != before


def test_another_header_is_another_model(model: Path) -> None:
    """Equal bytes under other names."""
    before = fingerprint(model, "float16")
    file = model / "model-00001-of-00002.safetensors"
    file.write_bytes(file.read_bytes().replace(b'"w1"', b'"x1"'))

    assert fingerprint(model, "float16") != before


@pytest.mark.parametrize("count", [1, 1000])
def test_another_length_is_another_model(model: Path, count: int) -> None:
    before = fingerprint(model, "float16")
    with (model / "model-00001-of-00002.safetensors").open("ab") as file:
        file.write(bytes(count))

    assert fingerprint(model, "float16") != before


def test_another_name_of_a_file_is_another_model(model: Path) -> None:
    before = fingerprint(model, "float16")
    (model / "model-00001-of-00002.safetensors").rename(model / "model-00003-of-00002.safetensors")

    assert fingerprint(model, "float16") != before


def test_another_way_to_compute_is_another_model(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = fingerprint(model, "float16")
    monkeypatch.setattr("importlib.metadata.version", lambda _: "99")

    assert fingerprint(model, "float16") != before


def test_only_samples_of_a_large_file_are_read(tmp_path: Path) -> None:
    """A sparse file of 60 GB: reading it would take a minute."""
    (tmp_path / "config.json").write_text("{}")
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.write(weights()[: -ARRAYS * ARRAY_BYTES])
        file.truncate(60 * 10**9)

    assert fingerprint(tmp_path, "float16")
