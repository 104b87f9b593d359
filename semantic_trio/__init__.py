"""A local inference server for people who run several agents at once on one machine."""

__version__ = "0.1.0"
