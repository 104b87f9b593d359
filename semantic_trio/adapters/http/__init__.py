"""The HTTP adapter: the only package that knows quart, hypercorn and status codes."""
