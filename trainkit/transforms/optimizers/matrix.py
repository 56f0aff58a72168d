"""Rules that see a matrix as a matrix: Muon and Adafactor.

Both take `stacked` (see `trainkit.transforms.stacks`): without it the leaf that a scan over
layers keeps is one tensor to them, and the norm scales of all its layers are a matrix.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from trainkit._core import validation
from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import Stacked, per_tensor


@rule(needs_params=True)
@per_tensor
def muon(
    learning_rate: Any,
    ns_coeffs: Any = (3.4445, -4.7750, 2.0315),
    ns_steps: int = 5,
    beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: Any = 0.0,
    weight_decay_mask: Any = None,
    mu_dtype: Any = None,
    *,
    nesterov: bool = True,
    adaptive: bool = False,
    preconditioning: str = "frobenius",
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    adam_eps_root: float = 0.0,
    adam_weight_decay: Any = 0.0,
    adam_learning_rate: Any = None,
    muon_weight_dimension_numbers: Any = None,
    consistent_rms: float | None = None,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Muon: θ ← θ − η √max(1, n/m) NS(m̂), for matrices; NadamW for every other leaf.

    μ ← β μ + (1 − β) g; m̂ = β μ/(1 − βᵗ⁺¹) + (1 − β) g/(1 − βᵗ); NS is `ns_steps` of
    X ← a X + (b A + c A²) X with A = X Xᵀ, from X = m̂/‖m̂‖_F: about U Vᵀ of m̂ = U S Vᵀ, with
    singular values between .7 and 1.2 rather than 1. The original has no bias correction, and AdamW
    for other leaves. Kept as Optax has it, so that a run moved from there goes on as it was: inside
    NS only the proportion of μ and g is changed by it, by less than 1 % after 40 steps.
    `preconditioning` is what m̂ is divided by before NS ("frobenius", "spectral", "aol" or
    "schatten"); `adaptive` multiplies the update by ⟨m̂, NS(m̂)⟩. Embeddings and the output layer
    are matrices too, which the authors train with Adam: say so with `groups` or
    `muon_weight_dimension_numbers`. Optax: `optax.contrib.muon`.

    >>> import jax.numpy as jnp
    >>> tx, p = muon(1.0), jnp.eye(3)
    >>> u = tx.update(5.0 * p, tx.init(p), p)[0]
    >>> bool(jnp.all(jnp.abs(jnp.linalg.svd(u, compute_uv=False) - 1) < 0.4))
    True

    Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024.
    """
    validation.choice(
        "preconditioning", preconditioning, ("frobenius", "spectral", "aol", "schatten"), "muon"
    )
    if consistent_rms is not None:
        validation.number("consistent_rms", consistent_rms, "muon", least=0)
    return optax.contrib.muon(
        learning_rate,
        ns_coeffs=ns_coeffs,
        ns_steps=ns_steps,
        beta=beta,
        eps=eps,
        weight_decay=weight_decay,
        weight_decay_mask=weight_decay_mask,
        mu_dtype=mu_dtype,
        nesterov=nesterov,
        adaptive=adaptive,
        preconditioning=preconditioning,
        adam_b1=adam_b1,
        adam_b2=adam_b2,
        adam_eps_root=adam_eps_root,
        adam_weight_decay=adam_weight_decay,
        adam_learning_rate=adam_learning_rate,
        muon_weight_dimension_numbers=muon_weight_dimension_numbers or _matrices,
        consistent_rms=consistent_rms,
    )


def _matrices(params: Any) -> Any:
    """What Optax takes for matrices, without those that have no elements and so no shape factor."""
    matrix = optax.contrib.MuonDimensionNumbers()
    return jax.tree.map(lambda x: matrix if x.ndim == 2 and x.size else None, params)


@rule(needs_params=True)
@per_tensor
def adafactor(
    learning_rate: Any = None,
    min_dim_size_to_factor: int = 128,
    decay_rate: float = 0.8,
    decay_offset: int = 0,
    multiply_by_parameter_scale: bool = True,
    clipping_threshold: float | None = 1.0,
    momentum: float | None = None,
    dtype_momentum: Any = jnp.float32,
    weight_decay_rate: Any = None,
    eps: float = 1e-30,
    factored: bool = True,
    weight_decay_mask: Any = None,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """Adafactor: Adam's second moment from its row and column sums, without the first.

    R ← β̂ R + (1 − β̂) mean_cols(g² + ε), C likewise by rows, β̂ₜ = 1 − t^(−decay_rate);
    U = g / √(R C / mean(R)); θ ← θ − η max(.001, RMS(θ)) U / max(1, RMS(U)/d). Leaves without two
    axes of `min_dim_size_to_factor` keep the whole second moment. β̂₁ = 0, so that no bias
    correction is needed. Optax: `optax.adafactor`, whose β̂ is float32 even for float64
    parameters; here it is not.

    >>> import jax.numpy as jnp
    >>> tx, p = adafactor(0.5), jnp.array([2.0])
    >>> tx.update(jnp.array([7.0]), tx.init(p), p)[0].tolist()
    [-1.0]

    Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018.
    """
    validation.number("decay_rate", decay_rate, "adafactor", above=0)
    parts = [
        optax.scale_by_factored_rms(
            factored,
            decay_rate,
            decay_offset,
            min_dim_size_to_factor,
            eps,
            decay_rate_fn=lambda step, exponent: 1.0 - (step + 1.0) ** (-exponent),
        )
    ]
    if clipping_threshold is not None:
        parts.append(optax.clip_by_block_rms(clipping_threshold))
    if learning_rate is not None:
        parts.append(optax.scale_by_learning_rate(learning_rate, flip_sign=False))
    if multiply_by_parameter_scale:
        parts.append(optax.scale_by_param_block_rms())
    if momentum is not None:
        parts.append(optax.ema(momentum, debias=False, accumulator_dtype=dtype_momentum))
    if weight_decay_rate is not None:
        parts.append(optax.add_decayed_weights(weight_decay_rate, mask=weight_decay_mask))
    return optax.chain(*parts, optax.scale(-1.0))
