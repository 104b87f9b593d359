"""Search by meaning over 1,000 documents: vectors from the server, an index of neighbours on this
machine.

    semantic-trio serve --model mlx-community/Qwen3-Embedding-0.6B-4bit-DWQ          # in another
    terminal python examples/vector_search.py [--url http://127.0.0.1:8000] ["what to do on a rainy
    afternoon by the sea" ...]

Needs `pip install openai voyager`. SEMANTIC_API_KEY is the server's key. A model that was made to
embed finds what a question is about; one that was made to generate finds at least the documents
that say the same as the question. docs/user-guide.md lists the other examples. Expected output, the
nearest documents first, but for the numbers and what the model takes for near:

    1000 documents in 9.5 s

    what to do on a rainy afternoon by the sea
    0.812  On a rainy afternoon, the old sailor repaired a net at the harbour.
    0.790  On a rainy afternoon, the old sailor read a long letter at the harbour.
    0.785  On a rainy afternoon, the gardener repaired a net at the harbour.
"""

import argparse
import itertools
import os
import time

import numpy as np
import openai
import voyager  # type: ignore[import-untyped]

WHO = (
    "the old sailor", "a young doctor", "the baker", "two students", "my neighbour", "the mayor", "a tired nurse", "the gardener", "a tall judge",
    "the cook",
)  # fmt: skip
WHAT = (
    "repaired a net", "read a long letter", "baked dark bread", "lost a key", "planted an oak", "sang quietly", "won an appeal", "wrote a program",
    "painted a door", "counted the stars",
)  # fmt: skip
WHERE = ("at the harbour", "in the library", "behind the school", "on a train", "near the court")
WHEN = ("On a rainy afternoon", "Before sunrise")
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]
# Texts of one request: the server reads 16 at a time, and another request comes in between.
TEXTS = 128
HITS = 3


def documents() -> list[str]:
    """Return 1,000 different sentences."""
    return [
        f"{when}, {who} {what} {where}."
        for when, who, what, where in itertools.product(WHEN, WHO, WHAT, WHERE)
    ]


def vectors(client: openai.OpenAI, texts: list[str]) -> Vectors:
    """Return the vectors of texts (texts, dimensions), each of length 1."""
    found = [
        client.embeddings.create(model="default", input=texts[first : first + TEXTS]).data
        for first in range(0, len(texts), TEXTS)
    ]
    return np.array([one.embedding for some in found for one in some], np.float32)


def index_of(found: Vectors) -> voyager.Index:
    """Build an index of vectors: one thread and a fixed seed make the same index each time."""
    index = voyager.Index(
        voyager.Space.InnerProduct, found.shape[1], M=16, ef_construction=400, random_seed=1
    )
    index.add_items(found, num_threads=1)
    return index


def main() -> None:
    """Index the documents, and print the nearest ones to each question."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument(
        "questions", nargs="*", default=["what to do on a rainy afternoon by the sea"]
    )
    options = parser.parse_args()
    client, texts = (
        openai.OpenAI(
            base_url=f"{options.url}/v1", api_key=os.environ.get("SEMANTIC_API_KEY", "none")
        ),
        documents(),
    )
    began = time.monotonic()
    index = index_of(vectors(client, texts))
    print(f"{len(texts)} documents in {time.monotonic() - began:.1f} s")
    for question in options.questions:
        places, distances = index.query(vectors(client, [question])[0], k=HITS, query_ef=len(texts))
        print(f"\n{question}")
        for place, distance in zip(places, distances, strict=True):
            print(f"{1 - distance:.3f}  {texts[int(place)]}")


if __name__ == "__main__":
    main()
