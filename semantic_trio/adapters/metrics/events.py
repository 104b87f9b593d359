"""Metrics of events: the ends of requests and generations, and changes of the models that are open.

Counts what it is given. Knows nothing of who reports it.
"""

import itertools

import attrs
from prometheus_client import CollectorRegistry, Counter, Histogram

from semantic_trio.domain.observation import GenerationEnded, RequestEnded
from semantic_trio.domain.reuse import ReuseSource

# From one token of a small model to the longest prefill a client waits for.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@attrs.frozen(eq=False)
class TurnMetrics:
    """Metrics of requests, their generations, and the records of their agents on disk."""

    requests: Counter
    durations: Histogram
    first_token: Histogram
    inter_token: Histogram
    tokenizations: Histogram
    hits: Counter
    misses: Counter
    records: Histogram

    @classmethod
    def registered(cls, registry: CollectorRegistry) -> "TurnMetrics":
        """Create the metrics, and register them."""
        return cls(
            requests=Counter(
                "semantic_request_total",
                "Requests, by how they ended.",
                ("model", "protocol", "status"),
                registry=registry,
            ),
            durations=_histogram(
                registry,
                "semantic_request_duration_seconds",
                "From the request to the end of its answer.",
            ),
            first_token=_histogram(
                registry,
                "semantic_time_to_first_token_seconds",
                "From submission to the first token.",
                ("cache", "priority"),
            ),
            inter_token=_histogram(
                registry, "semantic_inter_token_seconds", "Between two tokens of an answer."
            ),
            tokenizations=_histogram(
                registry,
                "semantic_tokenization_seconds",
                "Time to make a request's tokens: of a conversation by template, or of texts.",
            ),
            hits=Counter(
                "semantic_cache_hit_total",
                "Generations that began with remembered tokens.",
                registry=registry,
            ),
            misses=Counter(
                "semantic_cache_miss_total",
                "Generations that could not use all that might be known.",
                ("cause",),
                registry=registry,
            ),
            records=_histogram(
                registry,
                "semantic_cache_persist_duration_seconds",
                "From a turn's end to its being on disk.",
            ),
        )

    def request_ended(self, request: RequestEnded) -> None:
        """Count a request, and its duration."""
        self.requests.labels(request.model, request.protocol, request.status).inc()
        self.durations.observe(request.seconds)

    def generation_ended(self, generation: GenerationEnded) -> None:
        """Count a generation by its stamps."""
        reuse, stamps = generation.reuse, generation.stamps
        if reuse.tokens:
            self.hits.inc()
        if reuse.cause is not None:
            self.misses.labels(reuse.cause.value).inc()
        if not stamps:
            return
        cache = "disk" if reuse.source is ReuseSource.DISK else "ram" if reuse.tokens else "cold"
        self.first_token.labels(cache, generation.priority.value).observe(
            stamps[0] - generation.submitted_at
        )
        for earlier, later in itertools.pairwise(stamps):
            self.inter_token.observe(later - earlier)


@attrs.frozen(eq=False)
class ModelMetrics:
    """Metrics of models that are loaded, swapped and unloaded."""

    loads: Histogram
    swaps: Histogram
    failed_swaps: Counter
    unloads: Counter

    @classmethod
    def registered(cls, registry: CollectorRegistry) -> "ModelMetrics":
        """Create the metrics, and register them."""
        return cls(
            loads=_histogram(registry, "semantic_model_load_seconds", "Time to load a model."),
            swaps=_histogram(
                registry,
                "semantic_model_swap_duration_seconds",
                "Time to replace the main model by another one.",
            ),
            failed_swaps=Counter(
                "semantic_model_swap_failure_total",
                "Swaps whose new model could not be loaded.",
                registry=registry,
            ),
            unloads=Counter(
                "semantic_model_eviction_total",
                "Models that were unloaded.",
                ("cause",),
                registry=registry,
            ),
        )


def _histogram(
    registry: CollectorRegistry, name: str, text: str, labels: tuple[str, ...] = ()
) -> Histogram:
    return Histogram(name, text, labels, buckets=SECONDS, registry=registry)
