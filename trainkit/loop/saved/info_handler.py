"""The Orbax handler that writes the `info` of a step, with digests, in the background.

It is imported when the first step is saved, because importing Orbax takes as long as importing JAX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.future import CommitFutureAwaitingContractedSignals

from trainkit._core.identity import digest
from trainkit.loop.saved.info import write_info


class InfoHandler(ocp.AsyncCheckpointHandler):
    """Writes the files of `saved.info`; computing digests takes longer than copying the arrays."""

    async def async_save(self, directory: Any, args: InfoSave) -> list[Any]:
        async def write() -> None:
            digests = {
                name: {region: digest(part) for region, part in parts.items()}
                for name, parts in args.parts.items()
            }
            write_info(directory / f"{jax.process_index()}.json", args.info, digests)

        return [CommitFutureAwaitingContractedSignals(write(), name="trainkit_info")]

    def save(self, directory: Any, args: InfoSave) -> None:
        raise NotImplementedError("a Checkpointer saves in the background")

    def restore(self, directory: Any, args: Any = None) -> Any:
        raise NotImplementedError("see saved.info.read_info")


@ocp.args.register_with_handler(InfoHandler, for_save=True, for_restore=True)
@dataclasses.dataclass
class InfoSave(ocp.args.CheckpointArgs):
    """The `info`, and leaf -> region -> array to digest."""

    info: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]]
