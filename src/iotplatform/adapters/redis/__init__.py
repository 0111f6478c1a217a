"""Redis: the state of analysis, committed with its position, and the latest value of each series."""
