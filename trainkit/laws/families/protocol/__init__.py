"""What the protocol of optax.GradientTransformation promises of trees, types and side effects."""
