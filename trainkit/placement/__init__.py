"""Placements: where a train step runs: one device, `pmap`, `shard_map`, `jit`, FSDP, `periodic`.

Input: a name, a mesh or devices. Output: a `Placement`, which places arrays and sums over devices.
It does not depend on the model. Read `base` first.
"""

from trainkit.placement.base import Placement
from trainkit.placement.periodic import Periodic, periodic
from trainkit.placement.replicated import Pmap, ShardMap, pmap, shard_map
from trainkit.placement.resolve import resolve
from trainkit.placement.sharded import Sharded, fsdp, jit
from trainkit.placement.single import Single, single
from trainkit.placement.specs import BySize, Rules

__all__ = [
    "BySize",
    "Periodic",
    "Placement",
    "Pmap",
    "Rules",
    "ShardMap",
    "Sharded",
    "Single",
    "fsdp",
    "jit",
    "periodic",
    "pmap",
    "resolve",
    "shard_map",
    "single",
]
