"""The server as a service of its user: a launchd agent on macOS, a systemd user unit on Linux."""
