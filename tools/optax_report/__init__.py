"""The report over Optax: every public rule and schedule against every law."""
