"""Scion: steps of a fixed length in the norm that each layer has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.paths import compiled, path_name
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.optimizers.orthogonal import orthogonal
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import Stacked, per_tensor

PyTree = Any

NORMS = ("spectral", "sign", "rms")


@rule(needs_params=True)
@per_tensor
def scion(
    learning_rate: Any,
    beta: float = 0.9,
    radius: float = 1.0,
    eps: float = 1e-8,
    *,
    norms: Mapping[str, str] | None = None,
    unconstrained: bool = False,
    ns_steps: int = 5,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Scion: d ← β d + (1 − β) g, θ ← (1 − η) θ − η ρ s(d), s(d) the steepest step of length 1.

    `norms` says in which norm, {regular expression: norm}, the first that is found in a leaf's
    path: "spectral", √(out/in) U Vᵀ of d = U S Vᵀ by Newton and Schulz's iteration (as Muon's, with
    singular values about 1), the default for kernels [in, out] and, over the size of their window,
    those of convolutions [..., in, out]; "sign", sign(d)/in, which the authors have for the output
    layer and embeddings; "rms", d over its root mean square, the default for vectors. θ stays
    within the ball of the radius ρ, where it begins there; `unconstrained` leaves the factor 1 − η
    out. The authors' momentum is 1 − β. Not in Optax.

    Raises:
      ValueError: another norm, or a vector that is given one of kernels.

    >>> import jax.numpy as jnp
    >>> tx, p = scion(0.5, beta=0.0, norms={"": "sign"}), jnp.ones((2, 1))
    >>> tx.update(jnp.array([[3.0], [-0.1]]), tx.init(p), p)[0].tolist()  # −η (θ ± 1/2)
    [[-0.75], [-0.25]]

    Pethick et al., Training Deep Learning Models with Norm-Constrained LMOs, 2025.
    """
    norms = norms or {}
    for norm in norms.values():
        validation.choice("norms", norm, NORMS, "scion")
    patterns = list(zip(compiled(norms), norms.values(), strict=True))

    def steepest(path: Any, d: jax.Array) -> jax.Array:
        name = path_name(path)
        default = "spectral" if d.ndim > 1 else "rms"
        norm = next((norm for regex, norm in patterns if regex.search(name)), default)
        if norm != "rms" and d.ndim < 2:
            raise ValueError(
                f"scion: {name!r} has the shape {d.shape}, too few axes for the norm {norm!r}; "
                'give it "rms" in norms={...}.'
            )
        if norm == "rms":
            return d / (safe_norm(d) / max(d.size, 1) ** 0.5 + eps).astype(d.dtype)
        if norm == "sign":
            return jnp.sign(d) / max(math.prod(d.shape[:-1]), 1)
        *window, channels, out = d.shape
        factor = (out / max(channels, 1)) ** 0.5 / max(math.prod(window), 1)
        flat = d.reshape(math.prod(d.shape[:-1]), out)
        return factor * orthogonal(flat, ns_steps, eps).reshape(d.shape)

    parts = [
        optax.ema(beta, debias=False),
        optax.stateless(lambda d, _: jax.tree_util.tree_map_with_path(steepest, d)),
        optax.scale(radius),
    ]
    if not unconstrained:
        parts.append(optax.add_decayed_weights(1.0))
    return optax.chain(*parts, optax.scale_by_learning_rate(learning_rate))
