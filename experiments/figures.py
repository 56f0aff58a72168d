"""Writing a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainkit._core.run_files import NEW, remove


def save(figure: Any, file: Path) -> None:
    """Saves a matplotlib figure as PNG, whole or not at all, and not through a symbolic link.

    Makes the folder if there is none.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    new = file.with_name(file.name + NEW)
    remove(new)
    figure.savefig(new, format="png", dpi=110)
    new.replace(file)
