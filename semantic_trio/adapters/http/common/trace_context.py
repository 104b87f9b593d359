"""W3C Trace Context of a request: the header `traceparent`, and the ids of a trace that begins
here.

Source: https://www.w3.org/TR/trace-context/
"""

import re
import secrets
from collections.abc import Mapping

from semantic_trio.domain.observation import TraceContext

TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)
# The version that may have nothing after its flags.
FIRST_VERSION = "00"
SAMPLED = 1


def trace_context(headers: Mapping[str, str], *, begins_traces: bool) -> TraceContext | None:
    """Return the trace of a request: that of its client, else a new one if the server
    `begins_traces`, else None.

    A header that is not of the specification counts as none.
    """
    found = TRACEPARENT.fullmatch(headers.get("traceparent", "").strip())
    if found is None or (found[1] == FIRST_VERSION and found[5]):
        return TraceContext(secrets.token_hex(16), secrets.token_hex(8)) if begins_traces else None
    return TraceContext(
        found[2], secrets.token_hex(8), found[3], is_sampled=bool(int(found[4], 16) & SAMPLED)
    )
