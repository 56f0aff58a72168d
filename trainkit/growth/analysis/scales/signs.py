"""Values that are positive for all parameters: division by them is safe in padding units.

Examples are the denominator of a softmax over positions, and a norm with its ε. A share may be 0,
but no parameter is known to be positive, and what makes others positive (exp) carries no shares.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from trainkit.growth.analysis.joint_program import EquationPair, JointProgram
from trainkit.growth.ir.dataflow import Facts, Lattice
from trainkit.growth.ir.primitives import FIRST, traits


class Sign(enum.IntEnum):
    """The sign of every element, in exact arithmetic."""

    UNKNOWN = 0
    NOT_NEGATIVE = 1
    POSITIVE = 2


UNKNOWN, NOT_NEGATIVE, POSITIVE = Sign
_RESULTS = {"positive": POSITIVE, "not negative": NOT_NEGATIVE}


def signs(joint: JointProgram, inputs: Sequence[Sign]) -> Facts[Sign]:
    """The signs of all values of a joint program, from those of its arguments."""
    return joint.facts(_SIGNS, inputs)


def _constant(v: Any) -> Sign | None:
    if v.const is None:
        return None
    numbers = [c.number for c in v.const]
    if None in numbers:
        return UNKNOWN
    low = min(numbers)
    return POSITIVE if low > 0 else NOT_NEGATIVE if low == 0 else UNKNOWN


def _transfer(pair: EquationPair, known: list[Sign]) -> Sign:
    name, trait, dtype = pair.name, traits(pair), pair.outs[0].dtype
    if jax.dtypes.issubdtype(dtype, np.complexfloating):
        return UNKNOWN
    if trait.sign is not None:
        return _RESULTS[trait.sign]
    if name == "select_n" and (test := pair.ins[0]).const is not None:
        chosen = {-1 if c.uniform is None else int(c.uniform) for c in test.const}
        if len(chosen) == 1 and min(chosen) >= 0:
            return known[1 + chosen.pop()]  # a variance divides by its count where that is not 0
    if name == "mul":
        return max(NOT_NEGATIVE, known[0]) if pair.ins[0] is pair.ins[1] else min(known)
    if name == "div":
        # Integers are rounded to 0.
        return min(*known, NOT_NEGATIVE if jax.dtypes.issubdtype(dtype, np.integer) else POSITIVE)
    if name == "add" and min(known) >= NOT_NEGATIVE:
        return max(known)
    if name == "max":
        return max(known)
    if name == "rsqrt" and known[0] == POSITIVE:
        return POSITIVE
    keeps = trait.chooses or name == "reduce_sum" or (trait.increasing and trait.zero == FIRST)
    return known[0] if keeps else UNKNOWN


_SIGNS: Lattice[Sign] = Lattice(top=UNKNOWN, join=min, constant=_constant, transfer=_transfer)
