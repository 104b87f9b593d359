"""Sources of models: a directory, the Hub, or the names that are built in."""
