"""Sockets and connections: the web server."""
