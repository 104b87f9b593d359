"""mlx-lm's own batching engine without a server: the measure of what a server over the same model
gives.

Runs on the thread that calls it. Raises the wired limit of a Mac, as every program of mlx-lm does.
Knows nothing of text.
"""

from collections.abc import Iterable, Iterator, Sequence

from mlx.nn.layers.base import Module
from mlx_lm.generate import BatchGenerator


def generate(
    model: Module, prompts: Sequence[Sequence[int]], most_tokens: int, stop_tokens: Iterable[int]
) -> Iterator[int]:
    """Generate greedily for all prompts at once.

    Yields the place of its prompt for each token, as soon as that is there.
    """
    stops = [[token] for token in stop_tokens]
    generator = BatchGenerator(
        model, max_tokens=most_tokens, stop_tokens=stops, completion_batch_size=len(prompts)
    )
    try:
        ids = generator.insert([list(prompt) for prompt in prompts])
        places = {one: place for place, one in enumerate(ids)}
        while responses := generator.next_generated():
            yield from (places[response.uid] for response in responses)
    finally:
        generator.close()
