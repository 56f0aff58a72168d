"""What a run survives; `python -m benchmarks.reliability` counts it."""
