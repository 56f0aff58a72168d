"""States that are read and changed by name, and groups of parameters by path."""
