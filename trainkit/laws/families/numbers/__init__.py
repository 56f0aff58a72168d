"""Agreement with a reference, precision, the edges of numbers, descent and noise."""
