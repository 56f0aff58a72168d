"""Checkpoints of other programs: read, matched to a model by name, grown and written again.

Input: a checkpoint (safetensors, Orbax, msgpack, npz) and a model at two sizes. Output: a
checkpoint of the bigger model in the same format, with the same names. `formats` reads and writes
tensors one at a time; `matching` finds which tensors each leaf of a model is made of. Read
`growing` first.
"""

from trainkit.pretrained.growing import Grown, grow

__all__ = ["Grown", "grow"]
