"""A server process unloads a model without a pause that streams of other models would notice."""

import re
from pathlib import Path

from semantic_trio.entrypoints.exits import ExitCode
from tests.smoke.test_starting import starting

# A server that says how many objects each search for cycles of references has to look at.
COUNTING = """
import gc
collect = gc.collect
def counted():
    print("objects:", len(gc.get_objects()), flush=True)
    return collect()
gc.collect = counted
from semantic_trio.entrypoints.cli import main
main()
"""
# What was imported is some 170,000 objects, which take 100 ms; a small model is some thousands.
MOST_OBJECTS = 50_000


def test_an_unload_looks_at_the_objects_of_models_alone(tmp_path: Path) -> None:
    with starting(tmp_path, COUNTING) as server:
        server.wait_until_ready()
        for _ in range(2):
            answer = server.post("/admin/models/unload", json={"model": "tiny-random"})
            assert answer.is_success, answer.text
            server.post("/admin/models/load", json={"model": "tiny-random"})
        code = server.end()
        counts = [
            int(count) for count in re.findall(r"^objects: (\d+)$", server.said, re.MULTILINE)
        ]

    assert len(counts) >= 2
    assert max(counts) < MOST_OBJECTS
    assert code == ExitCode.OK
