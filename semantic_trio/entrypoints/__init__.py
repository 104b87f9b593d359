"""Where processes start: settings, logging, the command line, the tree of tasks."""
