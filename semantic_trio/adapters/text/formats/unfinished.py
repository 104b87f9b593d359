"""The fault of a call that has not been written to its end yet."""


class UnfinishedError(ValueError):
    """A text ends within a value, a string or a bracket."""
