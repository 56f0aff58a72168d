"""A step only where it goes down by this gradient."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import scalar_like, widest
from trainkit.transforms.stacks import Stacked, layer_axes
from trainkit.transforms.state.named import injected

PyTree = Any


def cautious(
    tx: optax.GradientTransformation, slack: float = 1.0, *, stacked: Stacked = None
) -> optax.GradientTransformationExtraArgs:
    """`tx`, without the entries of its update u that this gradient g says go up.

    φ = 1(u g < 0), of complex entries 1(Re u ḡ < 0), and u ← u φ · n/(Σ φ + ξ) for each leaf of n
    entries, so that a leaf's step is about as long as before; ξ is `slack`. It has no state of its
    own. Around a rule with momentum, learning rate included (its sign counts), but not around its
    decoupled decay, which is no step by the gradient:
    `chain(cautious(adam(η)), decoupled_weight_decay(η, λ))`. Its authors' later code divides by the
    mean of φ, at least .001: for a leaf of many entries the same. `stacked` is that of the rules by
    leaf (see `muon`): the layers of a stack are leaves of their own. Not in Optax.

    Raises:
      ValueError: a slack of 0 or less.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.cautious(tt.sgd(1.0, momentum=0.9))
    >>> _, state = tx.update(jnp.array([1.0, 1.0, 1.0]), tx.init(jnp.ones(3)))
    >>> print(tx.update(jnp.array([-0.5, 0.1, 1.1]), state)[0])  # −.4, −1 and −2, times 3/(2 + 1)
    [-0. -1. -2.]

    Liang et al., Cautious Optimizers: Improving Training with One Line of Code, 2024.
    """
    validation.number("slack", slack, "cautious", above=0)
    inner = injected(tx)

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        axes = iter(layer_axes(stacked, updates, "cautious"))
        out, state = inner.update(updates, state, params, **extra)

        def one(u: jax.Array, g: jax.Array) -> jax.Array:
            own = tuple(range(next(axes), u.ndim))
            wide = u.dtype if jnp.iscomplexobj(u) else widest(u)
            along = jnp.sign(u) * jnp.sign(g).conj().astype(u.dtype)
            down = (along.real < 0).astype(wide)
            kept = jnp.sum(down, axis=own, keepdims=True)
            more = math.prod(u.shape[a] for a in own) / (kept + scalar_like(slack, kept))
            return (u.astype(wide) * down * more).astype(u.dtype)

        return jax.tree.map(one, out, updates), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
