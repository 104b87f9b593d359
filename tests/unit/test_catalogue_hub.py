"""Models of the Hub: used from this machine where they are, and a plain answer where they cannot be
had.
"""

from pathlib import Path

import attrs
import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from semantic_trio.adapters.catalogue import weights
from semantic_trio.adapters.catalogue.hub import HubModel
from semantic_trio.adapters.catalogue.progress import Progress, Silent
from semantic_trio.domain.errors import ModelNotFoundError
from tests.vocabulary import write_model


@attrs.define
class Hub:
    """A Hub in a call: what it has, whether it can be reached, and whether it was."""

    directory: Path | None
    fault: Exception | None = None
    asked: list[bool] = attrs.field(factory=list)

    def __call__(self, repository: str, progress: Progress | None) -> Path:
        self.asked.append(progress is not None)
        if self.fault is not None and progress is not None:
            raise self.fault
        if self.directory is None:
            raise LocalEntryNotFoundError("not on this machine")
        return self.directory


@pytest.fixture
def complete(tmp_path: Path) -> Path:
    (write_model(tmp_path / "snapshot") / "model.safetensors").touch()
    return tmp_path / "snapshot"


def test_a_snapshot_on_this_machine_is_found_without_the_network(complete: Path) -> None:
    hub = Hub(complete, ConnectionError("asked the network"))

    assert HubModel("org/name", hub).find() == complete
    assert hub.asked == [False]


def test_without_the_network_pulling_goes_on_with_the_snapshot_that_is_here(complete: Path) -> None:
    assert (
        HubModel("org/name", Hub(complete, LocalEntryNotFoundError("offline"))).fetch(Silent())
        == complete
    )


def test_without_the_network_and_a_snapshot_the_answer_says_what_to_do() -> None:
    with pytest.raises(
        ModelNotFoundError, match=r"org/name.*connect and pull it once, or name a local directory"
    ):
        HubModel("org/name", Hub(None, LocalEntryNotFoundError("offline"))).fetch(Silent())


def test_half_a_snapshot_is_none(tmp_path: Path) -> None:
    model = HubModel("org/name", Hub(write_model(tmp_path / "snapshot")))

    assert model.find() is None
    with pytest.raises(ModelNotFoundError, match="not an MLX model"):
        model.fetch(Silent())


def test_whatever_else_the_client_raises_is_one_line() -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        HubModel("org/name", Hub(None, RuntimeError("checksum of shard 3\nTraceback ..."))).fetch(
            Silent()
        )

    assert caught.value.reason == "checksum of shard 3"


def cached(cache: Path, name: str, size: int) -> Path:
    """A repository in a cache of the Hub, of one revision with one file.

    All have a revision of the same hash, as a repository and its copy have.
    """
    repository = cache / f"models--{name.replace('/', '--')}"
    for directory in ("blobs", "refs", f"snapshots/{'a' * 40}"):
        (repository / directory).mkdir(parents=True)
    (repository / "blobs" / "b").write_bytes(b"w" * size)
    (repository / "refs" / "main").write_text("a" * 40)
    (repository / "snapshots" / ("a" * 40) / "model.safetensors").symlink_to("../../blobs/b")
    return repository


def test_a_model_of_the_hub_is_removed_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, other = cached(tmp_path, "org/name", 1000), cached(tmp_path, "org/other", 10)
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(tmp_path))
    monkeypatch.setattr(weights, "HF_HUB_CACHE", str(tmp_path))

    assert HubModel("org/name").remove() == 1000
    assert (wanted.exists(), other.exists()) == (False, True)
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        HubModel("org/name").remove()


def test_without_a_cache_of_the_hub_there_is_nothing_to_remove(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HF_HUB_CACHE", str(tmp_path / "none"))

    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        HubModel("org/name").remove()
