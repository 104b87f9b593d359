"""What a text is to a model, as one vector.

Knows how the vectors of tokens become one. Knows no arrays.
"""

import enum

import attrs


class Pooling(enum.StrEnum):
    """Which tokens' vectors make that of their text."""

    MEAN = "mean"  # all of them
    LAST = "last"
    FIRST = "first"


@attrs.frozen
class EmbeddingForm:
    """How a model embeds: a property of the model, not of a request."""

    pooling: Pooling = Pooling.MEAN
    is_approximate: bool = True  # the model was made to generate, and its vectors tell what texts have in common only more or less


APPROXIMATE = EmbeddingForm()
