"""What composing, batching, masking and transforming a problem may not change."""
