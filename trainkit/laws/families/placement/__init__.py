"""What devices, saved states, injected values and growth may not change."""
