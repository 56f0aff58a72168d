"""The report on Optax: every public rule and schedule checked against every law."""
