"""Seconds that a server takes to end after a signal, part by part.

Knows settings and durations. Knows nothing of what ends: service managers need the sum, and
importing the server takes seconds.
"""

import math

from semantic_trio.entrypoints.settings import Settings

# How long connections get to send what they have (the end of an answer, an error event) once the
# drain is over.
FLUSH_SECONDS = 2.0
# How long memory may be written to disk after the drain, where that has left less of its time.
PERSIST_SECONDS = 5.0
# How long the database of responses may take for the last of them.
STORE_SECONDS = 5.0
# How long the sinks of events may take for the last of them; a part of what follows.
SINK_SECONDS = 2.0
# How long the step that is running on the device, the sinks, the closing of the database and the
# interpreter may take together.
LAST_SECONDS = 10.0


def longest_end_seconds(settings: Settings) -> int:
    """Seconds from SIGTERM to the end of the process, at most.

    A service manager that kills earlier loses memory that is not on disk yet.
    """
    connections = FLUSH_SECONDS + settings.write_timeout_seconds + STORE_SECONDS
    memory = 2 * PERSIST_SECONDS  # what the device still holds, then what is to be written
    return math.ceil(settings.shutdown_timeout_seconds + connections + memory + LAST_SECONDS)
