"""Memory of the C heap that nothing uses any more, returned to the system.

glibc keeps most of what is freed: reading a tokenizer of 262,000 entries takes and frees 400 MB,
which the process has from then on, once for each thread that has done so. The C libraries
of other systems return freed memory by themselves.
"""

import ctypes


def trim_heap() -> None:
    """Return free memory of the heap to the system, where the C library can be told to.

    Takes tens of milliseconds, during which other threads run Python. Any thread may call it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
