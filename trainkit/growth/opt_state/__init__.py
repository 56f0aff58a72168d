"""Optimizer states through a growth: every slot by its degree in the gradient."""
