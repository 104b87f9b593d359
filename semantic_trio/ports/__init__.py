"""Interfaces that the engine needs from outside.

Each port has a real and a fake implementation that pass the same contract tests.
"""
