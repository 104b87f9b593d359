"""HTTP: the only package that knows quart, hypercorn and status codes."""
