"""Formats in which models write calls: one module per kind of format, and a table of them all."""
