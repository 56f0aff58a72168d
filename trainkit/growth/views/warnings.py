"""The warnings of a certificate."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

PyTree = Any


def warnings(
    tx: optax.GradientTransformation,
    params: PyTree,
    forward: dict[str, float],
    apart: tuple[float, float] | None,
    steep: dict[str, float],
) -> tuple[str, ...]:
    """The warnings, as sentences.

    Args:
      tx: the transformation of the run.
      params: the small model's parameters.
      forward: dtype -> relative change of the outputs.
      apart: (smallest, median) distance between copies.
      steep: leaf of a new layer -> its first gradient, in those of old leaves.
    """
    texts = []
    if _couples(tx, params):
        texts.append(
            "the update of one leaf depends on the gradients of others (for example by "
            "clip_by_global_norm). Growth changes the norm of each leaf by √copies · f, so the "
            "plain rule does not continue as before (exact continuation does)"
        )
    own = next(d for d in forward if d != "bfloat16" or len(forward) == 1)
    limit = 1e-10 if own == "float64" else 1e-4 if own == "float32" else 1e-1
    if forward[own] > limit:
        texts.append(f"the function changed: outputs differ by {forward[own]:.1e} of their scale")
    if "bfloat16" not in forward:
        texts.append("the model does not run in bfloat16, so the change in it was not measured")
    if apart is not None and apart[1] < 1e-6:
        texts.append(
            "copies are still equal after the probe steps, and will stay equal: choose an operator "
            "that breaks the symmetry (uneven, noise, zero_out)"
        )
    if steep:
        leaf = max(steep, key=steep.__getitem__)
        texts.append(
            f"the first gradient of {leaf}, in a new layer, is {steep[leaf]:,.0f} times the "
            "largest of an old leaf: the layer starts at 0, and a norm behind it divides by that. "
            "Clip gradients, or multiply by a scale behind the norm, which then starts at 0 instead"
        )
    return tuple(texts)


def _couples(tx: optax.GradientTransformation, params: PyTree) -> bool:
    """Whether a much larger gradient in one leaf changes the update of another."""
    tiny = jax.tree.map(lambda x: np.full((2,) * x.ndim, 0.1, np.float32), params)
    leaves, treedef = jax.tree.flatten(tiny)
    if len(leaves) < 2:
        return False

    @jax.jit
    def last_update(scale: jax.Array) -> list[jax.Array]:
        grads = [jnp.ones_like(leaf) for leaf in leaves]
        grads[0] = grads[0] * scale
        state = tx.init(tiny)
        updates, _ = tx.update(jax.tree.unflatten(treedef, grads), state, tiny)
        return [jnp.ravel(u) for u in jax.tree.leaves(updates)[1:]]

    try:
        plain, scaled = (np.concatenate(last_update(np.float32(s))) for s in (1.0, 1e3))
        return not np.allclose(plain, scaled, rtol=1e-3, atol=0)
    except Exception:
        # The rule needs more than gradients, so this is not checked.
        return False
