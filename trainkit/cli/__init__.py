"""The command `trainkit`."""

from trainkit.cli.main import main

__all__ = ["main"]
