"""The examples run as their first lines say."""

import subprocess
import sys
from pathlib import Path

from tests.process import ServerProcess

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_basic_inference_asks_both_ways(real_server: ServerProcess) -> None:
    done = subprocess.run(
        [sys.executable, EXAMPLES / "basic_inference.py", "--url", real_server.url], capture_output=True, text=True, timeout=120, check=True
    )

    assert done.stdout.count("Paris") == 2
    assert "tokens read" in done.stdout
