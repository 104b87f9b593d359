"""Dividing what is scarce. Knows numbers alone."""

from collections.abc import Sequence


def fair_shares(budget: int, wants: Sequence[int], weights: Sequence[int] = ()) -> list[int]:
    """Divide `budget` so that nobody could get more without taking from one who has less for its
    weight (max-min fairness).

    Short prompts are read whole before long ones take the rest. Source: Bertsekas and Gallager,
    Data Networks, 6.5.2.

    >>> fair_shares(512, [100, 2000, 2000])
    [100, 206, 206]
    >>> fair_shares(512, [2000, 2000], weights=[3, 1])
    [384, 128]
    """
    heavy = list(weights) or [1] * len(wants)
    shares, left = [0] * len(wants), sum(heavy)
    for i in sorted(range(len(wants)), key=lambda i: wants[i] / heavy[i]):
        shares[i] = min(wants[i], -(-budget * heavy[i] // left))
        budget -= shares[i]
        left -= heavy[i]
    return shares
