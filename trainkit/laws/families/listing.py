"""All laws of transformations, in the order in which they run and are reported."""

from __future__ import annotations

from dataclasses import replace

from trainkit.laws.families.algebra import (
    accumulation,
    batching,
    clipping,
    composition,
    decay,
    guarding,
    stacking,
    symmetry,
)
from trainkit.laws.families.matrices import coverage, preconditioner, spectrum
from trainkit.laws.families.matrices import oracle as of_matrices
from trainkit.laws.families.matrices import symmetry as maps
from trainkit.laws.families.numbers import (
    agreement,
    descent,
    edges,
    line_search,
    noise,
    precision,
)
from trainkit.laws.families.placement import collectives, devices, growth, injection, persistence
from trainkit.laws.families.protocol import (
    compilation,
    donation,
    dtypes,
    hyperparameters,
    memory,
    names,
    purity,
    structure,
)
from trainkit.laws.law import Law

# heading: (where its laws come from, what counts as agreement, and why, unless they say so
# themselves; and their files)
HEADINGS = {
    "protocol": ("the protocol of optax.GradientTransformation", "exact", "nothing is computed",
                 (purity, memory, compilation, structure, dtypes, donation, names,
                  hyperparameters)),
    "algebra": ("the algebra of gradient transformations",
                "1e-5 relative, 1e-6 of the largest entry",
                "other programs round differently; float32 has 6e-8 a step",
                (composition, batching, symmetry, decay, clipping, accumulation, guarding,
                 stacking)),
    "numbers": ("", "", "", (agreement, precision, edges, descent, line_search, noise)),
    "matrices": ("", "", "", (maps, spectrum, preconditioner, coverage, of_matrices)),
    "placement and persistence": (
        "", "", "", (collectives, devices, persistence, growth, injection)),
}  # fmt: skip
TRANSFORMATION_LAWS: tuple[Law, ...] = tuple(
    replace(
        law, group=heading, reference=law.reference or source,
        tolerance=law.tolerance or tolerance, why=law.why or why,
    )
    for heading, (source, tolerance, why, files) in HEADINGS.items()
    for file in files
    for law in file.LAWS
)  # fmt: skip
