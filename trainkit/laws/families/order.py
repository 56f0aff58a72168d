"""The laws of transformations in the order in which they are tried and reported."""

from __future__ import annotations

from trainkit.laws.families.algebra import (
    accumulation,
    batching,
    clipping,
    composition,
    decay,
    guarding,
    symmetry,
)
from trainkit.laws.families.numbers import agreement, descent, edges, line_search, noise, precision
from trainkit.laws.families.placement import collectives, devices, growth, injection, persistence
from trainkit.laws.families.protocol import compilation, donation, dtypes, names, purity, structure
from trainkit.laws.law import Law

TRANSFORMATION_LAWS: tuple[Law, ...] = (
    *purity.LAWS, *compilation.LAWS, *structure.LAWS, *dtypes.LAWS, *donation.LAWS, *names.LAWS,
    *composition.LAWS, *batching.LAWS, *symmetry.LAWS, *decay.LAWS, *clipping.LAWS,
    *accumulation.LAWS, *guarding.LAWS,
    *agreement.LAWS, *precision.LAWS, *edges.LAWS, *descent.LAWS, *line_search.LAWS, *noise.LAWS,
    *collectives.LAWS, *devices.LAWS, *persistence.LAWS, *growth.LAWS, *injection.LAWS,
)  # fmt: skip
