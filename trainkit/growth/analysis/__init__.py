"""From two programs to a plan: axes, scales, padding and splits that every equation allows."""
