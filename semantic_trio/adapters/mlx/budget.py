"""Size of the KV cache that suits a device."""

import mlx.core as mx

from semantic_trio.adapters.mlx.host_memory import available_bytes

MIB = 1 << 20
# MiB on a CPU, which shares its memory with everything else.
CPU_MB = 4096


def usual_cache_mb() -> int:
    """MiB for the KV cache, where nothing else is said: it depends on the device, and on the
    weights that are loaded.

    Any thread may ask.
    """
    facts = mx.device_info()
    size = int(facts.get("memory_size", facts.get("total_memory", 0)))
    return (
        CPU_MB
        if mx.default_device() == mx.Device(mx.cpu)
        else gpu_cache_mb(size, mx.get_active_memory())
    )


def gpu_cache_mb(memory: int, weights: int) -> int:
    """MiB for the KV cache of a GPU with so many bytes: a quarter of them, at most half of what the
    weights leave, at least 1 GiB.
    """
    return max(min(memory // 4, (memory - weights) // 2) // MIB, 1024)


def free_bytes() -> int | None:
    """Return the bytes of memory that the device has left; None where the system does not tell."""
    if mx.default_device() == mx.Device(mx.cpu):
        return available_bytes()
    facts = mx.device_info()
    size = int(facts.get("memory_size", facts.get("total_memory", 0)))
    return max(size - mx.get_active_memory(), 0) if size else None
