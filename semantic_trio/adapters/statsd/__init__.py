"""StatsD: metrics for a daemon that takes them by UDP."""

from semantic_trio.adapters.statsd.sink import StatsdSink

__all__ = ["StatsdSink"]
