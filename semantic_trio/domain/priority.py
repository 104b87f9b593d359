"""Priorities of requests: which of two gets the device first.

Knows the two classes. Knows nothing of queues or of the wire.
"""

import enum


class Priority(enum.StrEnum):
    """The class of a request. Within a class requests are served in the order of their arrival."""

    INTERACTIVE = "interactive"  # a person or an agent waits for it
    # it gets what interactive requests leave, and gives it back when they come
    BACKGROUND = "background"


# Seconds that a background request waits, all its waits together, until it is served as an
# interactive one. Long against the turns of a conversation, so that background work does not come
# between them; short against the hour after which clients of batches give up.
BACKGROUND_WAIT_SECONDS = 300.0
