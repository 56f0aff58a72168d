"""The `trainkit` command. Each subcommand is the module of the same name.

Input: command-line arguments. Output: an exit status. Read `main` first.
"""

from trainkit.cli.main import main

__all__ = ["main"]
