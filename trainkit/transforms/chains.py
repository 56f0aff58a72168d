"""A chain of transformations."""

from __future__ import annotations

import optax

from trainkit._core import validation


def chain(*args: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """One transformation after the other: `optax.chain`, whose parts are checked.

    `named` is a chain whose parts have names.

    Raises:
      TypeError: a part is not a gradient transformation, such as a rule that was not called.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, params = chain(tt.clip_by_value(1.0), tt.sgd(0.5)), jnp.zeros(2)
    >>> tx.update(jnp.array([0.5, 3.0]), tx.init(params), params)[0].tolist()
    [-0.25, -0.5]
    """
    for number, part in enumerate(args):
        if isinstance(part, list):
            raise TypeError("chain takes its parts one by one, not a list: chain(*parts).")
        validation.transformation(part, f"part {number} of chain")
    return optax.chain(*args)
