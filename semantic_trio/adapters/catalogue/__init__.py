"""Where models come from: a directory, the Hub, or the names that are built in."""
