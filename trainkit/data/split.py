"""Train, validation and test parts of a data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np

from trainkit._core.validation import integer, leading_size, named_options, number

PyTree = Any


class Splits(NamedTuple):
    """The disjoint parts of a data set; each has the structure of the whole."""

    train: PyTree
    validation: PyTree
    test: PyTree


@named_options
def split(data: PyTree, *, validation: float = 0.1, test: float = 0.0, seed: int = 0) -> Splits:
    """Splits a data set at random, the same way for the same seed.

    Args:
      data: pytree of arrays with one leading size n.
      validation: fraction of the examples for validation; round(n·validation) examples.
      test: fraction of the examples for testing.
      seed: integer seed of the split.

    Raises:
      ValueError: leaves of different leading size, or fractions that leave no training examples.

    >>> parts = split({"x": np.arange(10)}, validation=0.2, test=0.1, seed=0)
    >>> [len(part["x"]) for part in parts]
    [7, 2, 1]
    """
    n = leading_size(data, "data")
    for name, share in (("validation", validation), ("test", test)):
        number(name, share, least=0, below=1, hint="it is a fraction of the data")
    integer("seed", seed, least=0, below=2**63)
    held = round(n * validation), round(n * test)
    if sum(held) >= n:
        raise ValueError(
            f"validation={validation} and test={test} of {n} examples leave none to train on."
        )
    order = np.random.default_rng(np.random.SeedSequence([seed, 0x5B117])).permutation(n)
    bounds = np.cumsum([n - sum(held), held[0]])
    # Sorted: each part keeps the order of the data.
    return Splits(
        *(
            jax.tree.map(lambda leaf, part=part: leaf[part], data)
            for part in (np.sort(part) for part in np.split(order, bounds))
        )
    )
