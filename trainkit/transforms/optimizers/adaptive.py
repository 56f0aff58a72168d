"""Adaptive rules, which scale every coordinate by its gradient history."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.transforms.rule import rule
from trainkit.transforms.stacks import per_tensor

ScalarOrSchedule = Any


@rule
def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
) -> optax.GradientTransformation:
    """AdaGrad: G ← G + g², θ ← θ − η g / √(G + ε), with G₀ the initial value.

    The paper has G₀ = 0 and ε outside the root (√G + ε). Both forms are in use, and differ only if
    G is about ε. A coordinate with G + ε = 0 does not move. Optax: `optax.adagrad`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.adagrad(1.0, initial_accumulator_value=0.0, eps=0.0)
    >>> tx.update(jnp.array([4.0, 0.0]), tx.init(jnp.ones(2)))[0].tolist()
    [-1.0, -0.0]

    Duchi, Hazan and Singer, Adaptive Subgradient Methods, 2011.
    """
    return optax.adagrad(learning_rate, initial_accumulator_value, eps)


@rule
def rmsprop(
    learning_rate: ScalarOrSchedule,
    decay: float = 0.9,
    eps: float = 1e-8,
    initial_scale: float = 0.0,
    eps_in_sqrt: bool = True,
    centered: bool = False,
    momentum: float | None = None,
    nesterov: bool = False,
    bias_correction: bool = False,
) -> optax.GradientTransformation:
    """RMSProp: ν ← β ν + (1 − β) g², θ ← θ − η g / √(ν + ε).

    With `centered`, the divisor is √(ν − μ² + ε), with μ ← β μ + (1 − β) g. With
    `eps_in_sqrt=False` it is √ν + ε, as in PyTorch. As in the original lecture, ν starts at 0
    without correction, so the first steps are long: η/√(1 − β), about 3 η. `bias_correction`
    corrects that. Optax: `optax.rmsprop`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.rmsprop(1.0, decay=0.75, eps=0.0)
    >>> tx.update(jnp.array([4.0]), tx.init(jnp.ones(1)))[0].tolist()
    [-2.0]

    Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning, 2012; centred:
    Graves, Generating Sequences With Recurrent Neural Networks, 2013.
    """
    return optax.rmsprop(
        learning_rate,
        decay,
        eps,
        initial_scale,
        eps_in_sqrt,
        centered,
        momentum,
        nesterov,
        bias_correction,
    )


@rule
def adam(
    learning_rate: ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """Adam: μ ← β₁ μ + (1 − β₁) g, ν ← β₂ ν + (1 − β₂) g², θ ← θ − η μ̂ / (√(ν̂ + ε̄) + ε).

    The hats are the bias corrections μ̂ = μ/(1 − β₁ᵗ) and ν̂ = ν/(1 − β₂ᵗ), t = 1 at the first
    step. Texts without them are wrong: from μ = ν = 0, the uncorrected first step is (1 − β₁)/√(1 −
    β₂) = 3.2 times too long at the defaults, and steps stay too long for about 1/(1 − β₂) = 1000
    steps. ε belongs outside the root (`eps_root` is for differentiation through Adam). Optax:
    `optax.adam`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.adam(0.5, eps=0.0)
    >>> [round(x, 4) for x in tx.update(jnp.array([8.0, -1e-3]), tx.init(jnp.ones(2)))[0].tolist()]
    [-0.5, 0.5]

    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.
    """
    return optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)


@rule(needs_params=True)
def adamw(
    learning_rate: ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-4,
    mask: Any = None,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """AdamW: Adam with decoupled decay, θ ← θ − η (μ̂/(√ν̂ + ε) + λ θ).

    If λ θ is added to the *gradient* (`l2` before `adam`), it is divided by √ν̂, so that weights
    with large gradients hardly decay; that is not weight decay. In the paper λ is not multiplied by
    η; here it is, as in PyTorch and Optax. `mask` selects the leaves that decay: `mask=decay_mask`
    excludes biases and norms. Optax: `optax.adamw`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.adamw(0.5, weight_decay=0.5), jnp.array([4.0])
    >>> tx.update(jnp.zeros(1), tx.init(p), p)[0].tolist()
    [-1.0]

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """
    return optax.adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov
    )


@rule(needs_params=True)
def lion(
    learning_rate: ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.99,
    mu_dtype: Any = None,
    weight_decay: ScalarOrSchedule = 1e-3,
    mask: Any = None,
) -> optax.GradientTransformation:
    """Lion: θ ← θ − η (sign(β₁ μ + (1 − β₁) g) + λ θ), then μ ← β₂ μ + (1 − β₂) g.

    Every step has length η in every coordinate. Compared with AdamW, use a rate that is 3 to 10
    times smaller, and a decay that is as many times larger. Optax: `optax.lion`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.lion(0.5, weight_decay=0.0), jnp.ones(2)
    >>> tx.update(jnp.array([3.0, -1e-3]), tx.init(p), p)[0].tolist()
    [-0.5, 0.5]

    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.
    """
    return optax.lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask)


adadelta = rule(optax.adadelta, needs_params=True)
adamax = rule(optax.adamax)
adabelief = rule(optax.adabelief)
amsgrad = rule(optax.amsgrad)
nadam = rule(optax.nadam, name="nadam")
nadamw = rule(optax.nadamw, needs_params=True, name="nadamw")
yogi = rule(optax.yogi)
novograd = rule(per_tensor(optax.novograd), needs_params=True)
lamb = rule(per_tensor(optax.lamb), needs_params=True)
lars = rule(per_tensor(optax.lars), needs_params=True)


@rule
def radam(
    learning_rate: ScalarOrSchedule,
    b1: float = 0.9,
    b2: float = 0.999,
    eps: float = 1e-8,
    eps_root: float = 0.0,
    threshold: float = 5.0,
    *,
    nesterov: bool = False,
) -> optax.GradientTransformation:
    """RAdam: Adam's step times r(ρ) if ρ ≥ `threshold`, and η μ̂ before that.

    ρ∞ = 2/(1 − β₂) − 1, ρ = ρ∞ − 2 t β₂ᵗ/(1 − β₂ᵗ), r² = (ρ − 4)(ρ − 2) ρ∞/((ρ∞ − 4)(ρ∞ − 2) ρ).
    Optax: `optax.radam`, which computes 1 − β₂ᵗ as a difference. In float32 the first ρ, small
    differences of numbers near ρ∞ = 1999, then have few digits. Here `expm1` is used.

    >>> import jax.numpy as jnp
    >>> tx = radam(0.5)
    >>> print(tx.update(jnp.array([8.0]), tx.init(jnp.ones(1)))[0].round(4))  # too early to rectify
    [-4.]

    Liu et al., On the Variance of the Adaptive Learning Rate and Beyond, 2020.
    """
    adam = optax.scale_by_adam(b1, b2, eps, eps_root, nesterov=nesterov)
    momentum = optax.scale_by_radam(b1, b2, eps, eps_root, jnp.inf, nesterov=nesterov)
    # In Python if β₂ is a number, because its float32 logarithm is wrong in the fifth digit.
    log = np.log(b2) if isinstance(b2, float) and b2 > 0 else jnp.log(b2)

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        stepped, new = adam.update(updates, state)
        early, _ = momentum.update(updates, state)
        t = new.count.astype(jnp.result_type(float))
        top = 2 / (1 - b2) - 1
        rho = top - 2 * t / jnp.expm1(-t * log)
        safe = jnp.maximum(rho, 4)
        r = jnp.sqrt((safe - 4) * (safe - 2) * top / ((top - 4) * (top - 2) * safe))
        chosen = jax.tree.map(
            lambda a, m: jnp.where(rho >= threshold, r.astype(a.dtype) * a, m), stepped, early
        )
        return chosen, new

    return optax.chain(
        optax.GradientTransformation(adam.init, update),
        optax.scale_by_learning_rate(learning_rate),
    )
