"""What every request passes before and after its handler: paths, access rules, bodies, memory, the log line."""
