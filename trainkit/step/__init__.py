"""One training step: loss, gradients, the transformation, and the new state."""
