"""Transformations around a transformation: accumulation, averages, guards, storage."""
