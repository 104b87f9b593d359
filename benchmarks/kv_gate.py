"""The bounds that few bits of keys and values have to keep, and which of them a measurement
breaks.
"""

from collections.abc import Iterator

import attrs

# Mean divergence from the distributions of 16 bits, in nats: a hundredth of what a token's choice
# is worth in text of one nat a token.
MOST_KL = 0.01
# Part of the positions at which the likeliest token has to be that of 16 bits.
LEAST_SAME_TOKENS = 0.97
# Part of the calls that have to have the arguments of 16 bits; and of those that 16 bits get right,
# the part that has to be right.
LEAST_SAME_CALLS, LEAST_RIGHT_CALLS = 0.95, 0.95


@attrs.frozen
class Quality:
    """Measurements of a model with so many bits."""

    kl: float  # mean, in nats
    same_tokens: float  # part of the positions with the same likeliest token
    calls: int
    same_calls: int  # calls with the arguments of 16 bits
    right_calls: int  # calls with the arguments that were asked for
    right_before: int  # the same with 16 bits


def faults(found: Quality) -> Iterator[str]:
    """Yield the bounds that are broken, with the numbers."""
    if not found.kl <= MOST_KL:
        yield f"KL {found.kl:.4f}, at most {MOST_KL} is allowed"
    if not found.same_tokens >= LEAST_SAME_TOKENS:
        yield (
            f"the likeliest token is the same at {found.same_tokens:.3f} of the positions, at "
            f"least {LEAST_SAME_TOKENS} are wanted"
        )
    if found.same_calls < LEAST_SAME_CALLS * found.calls:
        yield (
            f"{found.same_calls} of {found.calls} calls have the arguments of 16 bits, at least "
            f"{LEAST_SAME_CALLS} are wanted"
        )
    if found.right_calls < LEAST_RIGHT_CALLS * found.right_before:
        yield (
            f"{found.right_calls} calls are right where 16 bits have {found.right_before}, at "
            f"least {LEAST_RIGHT_CALLS} of them are wanted"
        )
