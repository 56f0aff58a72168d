"""The placement for the option `placement=` of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from trainkit._core import validation
from trainkit._core.processes import check_joined, end_together
from trainkit.placement.base import Placement
from trainkit.placement.periodic import periodic
from trainkit.placement.replicated import pmap, shard_map
from trainkit.placement.sharded import Sharded, fsdp, jit
from trainkit.placement.single import single

NAMES = {
    "single": single,
    "pmap": pmap,
    "shard_map": shard_map,
    "jit": jit,
    "fsdp": fsdp,
    "periodic": periodic,
}
_OTHER = "a jax.sharding.Mesh, or a placement such as trainkit.placement.fsdp(rules=[...])"


def resolve(
    placement: str | Mesh | Placement, devices: int | Sequence[jax.Device] | None = None
) -> Placement:
    """The placement for a name, for a mesh (batch along its first axis), or the given object.

    Raises:
      ValueError, TypeError: an unknown name, another type, or `devices` without a name.
    """
    check_joined()
    end_together()
    if isinstance(placement, str):
        validation.choice("placement", placement, NAMES, other=_OTHER)
        make: Any = NAMES[placement]
        return make(devices)
    if devices is not None:
        raise ValueError(
            "devices= needs the name of a placement; a mesh or placement has its own devices."
        )
    if isinstance(placement, Mesh):
        return Sharded(placement, batch_axes=(placement.axis_names[0],))
    if not all(hasattr(placement, name) for name in ("parts", "summed", "lower")):
        raise TypeError(
            f"placement must be a name ({', '.join(map(repr, NAMES))}), {_OTHER}, not "
            f"{type(placement).__name__}."
        )
    return placement
