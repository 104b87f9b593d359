"""Bits of keys and values, and the bytes that a position takes with them.

Knows numbers of a head, their groups and their bits. Knows no arrays and no models.
"""

from semantic_trio.domain.errors import InvalidRequestError

# Keys and values as the model computes them: 16 bits for published weights, 32 on a CPU.
AS_COMPUTED = 16
KV_BITS = (AS_COMPUTED, 8, 4)
# Numbers that share a scale and a bias, the larger group where it divides a head: with scales of 16
# bits, 64 numbers of 8 bits take 8.5 bits each, 32 take 9. Groups are of one position and one head:
# positions can be cut, copied and shared one by one.
GROUPS = (64, 32)


def group_size(head_size: int, kv_bits: int) -> int:
    """Return how many numbers of a head share a scale.

    Raises `InvalidRequestError` for heads that no group divides.

    >>> group_size(128, kv_bits=8), group_size(96, kv_bits=8)
    (64, 32)
    """
    found = next((group for group in GROUPS if head_size and head_size % group == 0), None)
    if found is None:
        allowed = (
            f"{kv_bits} bits are for models whose heads have a multiple of {GROUPS[-1]} numbers"
        )
        raise InvalidRequestError(
            f"{allowed}; this model's have {head_size}: set kv_bits = {AS_COMPUTED}",
            field="kv_bits",
        )
    return found


def head_bytes(head_size: int, kv_bits: int, element_bits: int) -> int:
    """Bytes of the keys or the values of one head at one position, scales and biases included.

    `element_bits`: of a number the model computes with. Raises `InvalidRequestError` as
    `group_size` does.
    """
    if kv_bits == AS_COMPUTED:
        return head_size * element_bits // 8
    return (
        head_size * kv_bits + 2 * head_size // group_size(head_size, kv_bits) * element_bits
    ) // 8
