"""The start of processes: settings, logging, the command line, the tree of tasks."""
