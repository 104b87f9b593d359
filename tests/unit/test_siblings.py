"""Finding the best of many blocks that follow one: `PrefixTree.held` against a comparison of all of
them.
"""

from hypothesis import given
from hypothesis import strategies as st

from semantic_trio.domain.chain import TokenRun, child_key, pack, unpack
from semantic_trio.domain.entries import Block, InMemory, OnDisk
from semantic_trio.domain.prefix import PrefixTree

ROOT, SIZE = b"root", 4
tokens = st.lists(st.integers(1, 3), max_size=SIZE).map(tuple)
kept = st.sampled_from(
    [
        (InMemory.CACHED, OnDisk.NO),
        (InMemory.FREE, OnDisk.THERE),
        (InMemory.FREE, OnDisk.NO),
        (InMemory.CACHED, OnDisk.THERE),
    ]
)


def alike(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """Tokens that two sequences begin with alike."""
    return next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b),
        min(len(one), len(other)),
    )


@given(prompt=tokens, siblings=st.dictionaries(tokens.filter(bool), kept, max_size=12))
def test_the_block_that_begins_with_most_tokens_is_found_and_of_equals_one_in_memory(
    prompt: tuple[int, ...], siblings: dict[tuple[int, ...], tuple[InMemory, OnDisk]]
) -> None:
    tree = PrefixTree(False, lambda parent, key, packed: None)
    root = tree.root(ROOT)
    for one, (memory, disk) in siblings.items():
        block = Block(child_key(ROOT, pack(one)), root, 0, pack(one))
        block.memory, block.disk = memory, disk
        root.children.add(block)
    run = TokenRun.of(prompt, ROOT, SIZE)

    path, part, known = tree.held(run)

    held = {
        one: memory
        for one, (memory, disk) in siblings.items()
        if InMemory.CACHED is memory or OnDisk.THERE is disk
    }
    most = max((alike(one, prompt) for one in held), default=0)
    assert known == most
    if not path and most:
        best = [memory for one, memory in held.items() if alike(one, prompt) == most]
        assert isinstance(part, Block)
        assert alike(unpack(part.packed), prompt) == most
        assert (part.memory is InMemory.CACHED) == (InMemory.CACHED in best)
