"""The plan: plain data that say how every leaf grows."""
