"""Texts a second that a server embeds, one text a request and 16, and a search by meaning over the
1,000 documents of examples/vector_search.py.

python -m benchmarks.embeddings [--model smollm2-135m] [--tokens 128 512] [--texts 16] [--rounds 3]

The model is served with the mean of its vectors, as a model that was made to embed is. The two ways
take turns, each with the same texts; seconds are a client's, over loopback.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import openai

from examples.vector_search import Vectors, documents, index_of, vectors
from semantic_trio.adapters.catalogue.catalogue import open_catalogue
from semantic_trio.adapters.catalogue.pooling import POOLING
from semantic_trio.adapters.catalogue.progress import Lines
from semantic_trio.entrypoints import settings_loading
from tests.process import serving
from tests.talk import words

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]
BATCH = 16
QUESTIONS = 20
HITS = 3


def with_mean(model: str, into: Path) -> Path:
    """A directory of the model that says it embeds by the mean."""
    catalogue = open_catalogue(settings_loading.load({}).settings.data_dir)
    into.mkdir()
    for file in catalogue.ensure(model, Lines()).iterdir():
        (into / file.name).symlink_to(file)
    (into / POOLING).parent.mkdir()
    (into / POOLING).write_text(json.dumps({"pooling_mode": "mean"}))
    return into


def seconds_of(client: openai.OpenAI, texts: Sequence[str], batch: int) -> tuple[float, int]:
    """Seconds that requests of so many texts take, one after the other, and the texts' tokens."""
    began, tokens = time.perf_counter(), 0
    for first in range(0, len(texts), batch):
        answer = client.embeddings.create(
            model="default", input=list(texts[first : first + batch]), encoding_format="base64"
        )
        tokens += answer.usage.prompt_tokens
    return time.perf_counter() - began, tokens


def compare(client: openai.OpenAI, length: int, count: int, rounds: int) -> None:
    """Print texts a second of both ways, for texts of about so many tokens."""
    texts = [words(f"text {number}", length) for number in range(count)]
    alone, together = list[float](), list[float]()
    for _ in range(rounds):
        seconds, tokens = seconds_of(client, texts, 1)
        alone.append(seconds)
        together.append(seconds_of(client, texts, BATCH)[0])
        print(
            f"  {tokens / count:.0f} tokens: {count / alone[-1]:.2f} texts/s alone, "
            f"{count / together[-1]:.2f} by {BATCH}"
        )
    ratios = [one / other for one, other in zip(alone, together, strict=True)]
    print(
        f"texts of about {length} tokens: {count / statistics.median(alone):.2f} texts/s alone, "
        f"{count / statistics.median(together):.2f} by {BATCH}: {statistics.median(ratios):.2f} "
        f"times ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def search(client: openai.OpenAI) -> None:
    """Print what an index of the documents takes, and a search with and without it."""
    texts = documents()
    began = time.perf_counter()
    found = vectors(client, texts)
    embedded = time.perf_counter()
    index = index_of(found)
    built = time.perf_counter()
    asked, searched, scanned, agreed = list[float](), list[float](), list[float](), 0
    for text in itertools.islice(texts, 0, None, len(texts) // QUESTIONS):
        start = time.perf_counter()
        question = vectors(client, [text.removesuffix(".") + ", in other words"])[0]
        asked.append(time.perf_counter() - start)
        start = time.perf_counter()
        near, _ = index.query(question, k=HITS, query_ef=len(texts))
        searched.append(time.perf_counter() - start)
        start = time.perf_counter()
        nearest = nearest_of(found, question)
        scanned.append(time.perf_counter() - start)
        agreed += {int(place) for place in near} == nearest
    took, rate = embedded - began, len(texts) / (embedded - began)
    vector, by_index, by_scan = [
        statistics.median(times) * 1e3 for times in (asked, searched, scanned)
    ]
    print(
        f"{len(texts)} documents: vectors {took:.1f} s ({rate:.1f} texts/s), index "
        f"{built - embedded:.2f} s; a question: vector {vector:.0f} ms, search {by_index:.2f} ms, "
        f"scan of all {by_scan:.2f} ms; the index finds the nearest {HITS} of {agreed} of "
        f"{QUESTIONS} questions"
    )


def nearest_of(found: Vectors, question: Vector) -> set[int]:
    """Places of the nearest vectors."""
    return {int(place) for place in np.argsort(found @ question)[-HITS:]}


def main() -> None:
    """See the top of the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--tokens", type=int, nargs="*", default=[128, 512])
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        model = with_mean(chosen.model, Path(directory) / "model")
        with serving(Path(directory), model=str(model)) as server:
            client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=600)
            seconds_of(client, [words("warm", 16)] * BATCH, BATCH)
            for length in chosen.tokens:
                compare(client, length, chosen.texts, chosen.rounds)
            search(client)


if __name__ == "__main__":
    main()
