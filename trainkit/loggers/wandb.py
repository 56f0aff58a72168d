"""Weights & Biases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from trainkit._core import validation
from trainkit.loggers.logger import Run, Value, need, split


class WandB:
    """A run of Weights & Biases; training step n is its step n, and a chart's name `train/loss`.

    A run that goes on is one run there too. Online, rows that the service has are not sent again,
    and those that it lacks are. Offline, a session's files are made anew from all rows, and those
    of the sessions before are renamed `replaced-…`, so that `wandb sync` finds every row once.

    Where the program has a run of its own already, as in a sweep, that one is used and stays open.

    Args:
      project, entity, name, group, job_type, tags, notes, mode, settings: as for `wandb.init`; by
        default its own. The name is that of the run's folder.

    Raises:
      TypeError, ValueError: an unknown option, or one of another kind.
      ModuleNotFoundError: wandb is not installed.
    """

    @validation.named_options
    def __init__(
        self,
        project: str | None = None,
        *,
        entity: str | None = None,
        name: str | None = None,
        group: str | None = None,
        job_type: str | None = None,
        tags: Sequence[str] | None = None,
        notes: str | None = None,
        mode: Literal["online", "offline", "disabled", "shared"] | None = None,
        settings: Any = None,
    ):
        words = {
            "project": project, "entity": entity, "name": name, "group": group,
            "job_type": job_type, "notes": notes,
        }  # fmt: skip
        for option, value in words.items():
            if value is not None:
                validation.text(option, value, "WandB")
        if tags is not None:
            validation.listed("tags", tags, "['baseline']", "WandB")
        if mode is not None:
            validation.choice("mode", mode, ("online", "offline", "disabled", "shared"), "WandB")
        need("wandb", "WandB", "wandb")
        given = {**words, "tags": tags, "mode": mode, "settings": settings}
        self.options = {option: value for option, value in given.items() if value is not None}
        self._run: Any = None

    def start(self, run: Run) -> None:
        """Begins the run, or takes it up by its id."""
        import wandb

        self._own = wandb.run is None
        name = {"name": run.folder.name, "dir": str(run.folder)} if run.folder else {}
        options = {"id": run.id, "resume": "allow", **name, **self.options}
        self._run = wandb.init(**options) if self._own else wandb.run
        self._run.config.update(dict(run.config), allow_val_change=True)
        self._first = self._run.step  # what it has, it has up to here
        if self._own and self._run.offline:
            _put_aside(Path(self._run.dir).parent, self._run.id)
        for row in run.rows:
            self.log(*split(row))

    def log(self, step: int, values: Mapping[str, Value], kind: str) -> None:
        """Sends a row."""
        if step >= self._first:
            self._run.log({f"{kind}/{name}": value for name, value in values.items()}, step=step)

    def close(self, stopped: str | None) -> None:
        """Ends the run: as failed, where an error ended it."""
        if self._run is not None and self._own:
            self._run.finish(exit_code=1 if stopped is None else 0)


def _put_aside(folder: Path, id: str) -> None:
    """Renames the folders of the sessions before; what was synchronised stays."""
    for other in folder.parent.glob(f"offline-run-*-{id}"):
        if other != folder and not list(other.glob("*.synced")):
            other.rename(other.with_name(f"replaced-{other.name}"))
