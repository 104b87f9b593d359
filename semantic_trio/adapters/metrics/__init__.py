"""Metrics for Prometheus."""

from semantic_trio.adapters.metrics.metrics import Build, Metrics
from semantic_trio.adapters.metrics.models import WatchedModel

__all__ = ["Build", "Metrics", "WatchedModel"]
