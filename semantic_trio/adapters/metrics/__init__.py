"""Figures for Prometheus."""

from semantic_trio.adapters.metrics.metrics import Metrics

__all__ = ["Metrics"]
