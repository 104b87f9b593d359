"""One or more observations of every type."""

from semantic_trio.domain.observation import (
    DrainBegan,
    DrainEnded,
    Evicted,
    GenerationEnded,
    Loaded,
    ModelLoaded,
    ModelSwapped,
    ModelUnloaded,
    Observation,
    PromptRead,
    RequestEnded,
    RowOpened,
    Written,
)
from semantic_trio.domain.reuse import MissCause, ReuseSource

SAMPLES: dict[str, Observation] = {
    "request": RequestEnded(
        request_id="req_1",
        agent="a",
        model="m",
        protocol="openai",
        status="200",
        began_at=1.0,
        ended_at=3.5,
        prompt_tokens=10,
        reused_tokens=4,
        completion_tokens=5,
    ),
    "request that reached no model": RequestEnded(
        request_id="req_2", protocol="anthropic", status="401"
    ),
    "reuse": RowOpened(
        request_id="req_1",
        agent="a",
        waited_seconds=0.1,
        prompt_tokens=10,
        reused_tokens=4,
        source=ReuseSource.RAM,
    ),
    "reuse with a cause": RowOpened(
        request_id="req_1", prompt_tokens=10, cause=MissCause.EVICTED, lost_tokens=7
    ),
    "prefill": PromptRead(request_id="req_1", agent="a", tokens=6, seconds=0.25),
    "generation": GenerationEnded(
        request_id="req_1",
        agent="a",
        submitted_at=1.0,
        started_at=1.1,
        stamps=(2.0, 3.0),
        closed_at=3.25,
    ),
    "evict": Evicted(tier="disk", entries=3),
    "write": Written(agent=None, entries=2, size_bytes=2048, seconds=0.01),
    "write of a record": Written(agent="a", entries=1, size_bytes=100, seconds=0.01),
    "load": Loaded(entries=2, tokens=512, size_bytes=2048, seconds=0.02),
    "model": ModelLoaded(model="m", seconds=4.0),
    "model unloaded": ModelUnloaded(model="m", cause="idle", size_bytes=1 << 30, seconds=0.5),
    "swap": ModelSwapped(model="n", previous="m", seconds=9.5, is_done=True),
    "swap that failed": ModelSwapped(model="n", previous="m", seconds=9.5, is_done=False),
    "drain": DrainBegan(open_requests=2, grace_seconds=30.0),
    "drained": DrainEnded(failed_requests=1, seconds=30.0),
}
