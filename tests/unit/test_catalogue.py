"""Names of models: what they mean, and what is said when they mean nothing."""

from pathlib import Path

import attrs
import pytest

from semantic_trio.adapters.catalogue.catalogue import BuiltIn, Catalogue, open_catalogue
from semantic_trio.adapters.catalogue.directory import LocalDirectory
from semantic_trio.adapters.catalogue.hub import HubModel
from semantic_trio.adapters.catalogue.progress import Progress, Silent
from semantic_trio.adapters.catalogue.shelf import Shelf
from semantic_trio.domain.errors import ModelNotFoundError
from tests.vocabulary import write_model


@attrs.define
class Recipe:
    """Builds a file, and counts."""

    fault: Exception | None = None
    built: int = 0
    name: str = "toy"
    version: str = "1"
    about: str = "a toy"

    def build(self, into: Path, progress: Progress) -> None:
        self.built += 1
        if self.fault is not None:
            raise self.fault
        (into / "weights").write_text("1")

    def tidy(self) -> None:
        pass


def catalogue_of(recipe: Recipe, directory: Path) -> Catalogue:
    return Catalogue({recipe.name: BuiltIn(recipe, Shelf(directory / "models"))})


def test_a_name_means_a_path_a_built_in_model_or_a_repository_of_the_hub(tmp_path: Path) -> None:
    catalogue = open_catalogue(tmp_path)

    assert isinstance(catalogue.resolve("smollm2-135m"), BuiltIn)
    assert isinstance(catalogue.resolve("tiny-random"), BuiltIn)
    assert isinstance(catalogue.resolve("mlx-community/Qwen3-4B-4bit"), HubModel)
    assert [
        type(catalogue.resolve(name)) for name in ("/models/x", "./x", "~/x", str(tmp_path))
    ] == [LocalDirectory] * 4


@pytest.mark.parametrize("name", ["", "gpt-4", "a/b/c", "-/x", "org/na me"])
def test_a_name_that_means_nothing_is_answered_with_what_would(name: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="smollm2-135m"):
        open_catalogue(tmp_path).resolve(name)


def test_a_local_directory_is_used_where_it_is(tmp_path: Path) -> None:
    (write_model(tmp_path / "mine") / "model.safetensors").touch()

    assert open_catalogue(tmp_path).ensure(str(tmp_path / "mine"), Silent()) == tmp_path / "mine"


@pytest.mark.parametrize(
    ("name", "missing"),
    [("nowhere", "no such directory"), ("half", "model-2.safetensors"), ("empty", "config.json")],
)
def test_a_directory_without_a_model_is_answered_with_what_is_missing(
    name: str, missing: str, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    half = write_model(tmp_path / "half")
    (half / "model-1.safetensors").touch()
    (half / "model.safetensors.index.json").write_text(
        '{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    )

    for ask in (
        open_catalogue(tmp_path).path,
        lambda name: open_catalogue(tmp_path).pull(name, Silent()),
    ):
        with pytest.raises(ModelNotFoundError, match=missing):
            ask(str(tmp_path / name))


@pytest.mark.parametrize("name", ["~nobody-of-this-name/model", "/" + "x" * 300, "x" * 300, "/\0"])
def test_a_name_that_no_directory_can_have_is_answered_as_one_that_is_not_there(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ModelNotFoundError):
        open_catalogue(tmp_path).path(name)


def test_a_model_is_built_once_and_found_from_then_on(tmp_path: Path) -> None:
    recipe = Recipe()
    catalogue = catalogue_of(recipe, tmp_path)

    first, second = catalogue.ensure("toy", Silent()), catalogue.ensure("toy", Silent())

    assert first == second == catalogue.path("toy")
    assert recipe.built == 1


def test_a_model_that_is_not_here_is_answered_with_the_command_that_brings_it(
    tmp_path: Path,
) -> None:
    for name in ("toy", "org/never-pulled-by-anyone"):
        with pytest.raises(ModelNotFoundError, match=f"semantic-trio models pull {name}"):
            catalogue_of(Recipe(), tmp_path).path(name)


def test_the_list_tells_which_models_are_here(tmp_path: Path) -> None:
    catalogue = catalogue_of(Recipe(), tmp_path)
    before = next(iter(catalogue.entries()))
    catalogue.pull("toy", Silent())

    assert (before.name, before.path, before.about) == ("toy", None, "a toy")
    assert next(iter(catalogue.entries())).path == tmp_path / "models" / "toy"


def test_a_full_disk_is_a_model_that_cannot_be_kept_and_a_forbidden_one_a_fault_of_the_directory(
    tmp_path: Path,
) -> None:
    with pytest.raises(ModelNotFoundError, match="No space left"):
        catalogue_of(Recipe(OSError(28, "No space left on device")), tmp_path).pull("toy", Silent())
    with pytest.raises(PermissionError, match="data_dir: /x cannot be written to: Read-only"):
        catalogue_of(Recipe(OSError(30, "Read-only file system", "/x")), tmp_path).pull(
            "toy", Silent()
        )


def test_asking_writes_nothing(tmp_path: Path) -> None:
    list(open_catalogue(tmp_path / "data").entries())

    assert not (tmp_path / "data").exists()


def test_a_built_in_model_is_removed_and_made_again(tmp_path: Path) -> None:
    recipe = Recipe()
    catalogue = catalogue_of(recipe, tmp_path)
    path = catalogue.pull("toy", Silent())

    size = catalogue.remove("toy")

    assert size == len("1") + len(recipe.version)
    assert not path.exists()
    with pytest.raises(ModelNotFoundError, match="not on this machine"):
        catalogue.remove("toy")
    assert catalogue.pull("toy", Silent()) == path
    assert recipe.built == 2


def test_a_directory_of_the_users_own_is_never_removed(tmp_path: Path) -> None:
    (write_model(tmp_path / "mine") / "model.safetensors").touch()

    with pytest.raises(ModelNotFoundError, match="removed by you"):
        open_catalogue(tmp_path / "data").remove(str(tmp_path / "mine"))

    assert (tmp_path / "mine" / "model.safetensors").exists()
