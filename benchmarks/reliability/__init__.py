"""Measures what a run survives: `python -m benchmarks.reliability`."""
