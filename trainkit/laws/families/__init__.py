"""The laws of update rules: one file a family."""
