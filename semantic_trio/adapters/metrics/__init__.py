"""Metrics for Prometheus."""

from semantic_trio.adapters.metrics.metrics import Build, Metrics

__all__ = ["Build", "Metrics"]
