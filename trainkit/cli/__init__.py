"""The command `trainkit`: its first word names the module here that does it.

Input: the words of a command line. Output: an exit status. Read `main` first.
"""

from trainkit.cli.main import main

__all__ = ["main"]
