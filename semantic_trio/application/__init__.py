"""The engine: trio around the domain's rules and the ports."""
