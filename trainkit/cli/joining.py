"""How a command joins the other processes of its run."""

from __future__ import annotations

import os

from trainkit import distributed


def join() -> None:
    """Joins them, where there are any.

    A command that is called in a program which has used JAX already (a notebook, a test) is alone,
    unless the environment says that it is one of several.
    """
    try:
        distributed.initialize()
    except RuntimeError:
        if any(name in os.environ for name in distributed.VARIABLES):
            raise
