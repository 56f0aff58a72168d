"""Axes that grow: which are one, how they are made of parts, and systems of equations on them."""
