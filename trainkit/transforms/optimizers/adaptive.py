"""Rules that scale every coordinate by its own history."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.clipping import safe_norm
from trainkit.transforms.rounding import nu_in
from trainkit.transforms.rule import real_only, rule
from trainkit.transforms.stacks import Stacked, per_tensor

ScalarOrSchedule = Any


@rule
def adagrad(
    learning_rate: ScalarOrSchedule,
    initial_accumulator_value: float = 0.1,
    eps: float = 1e-7,
) -> optax.GradientTransformation:
    """AdaGrad: G ← G + g², θ ← θ − η g / √(G + ε), with G₀ the initial value.

    The paper has G₀ = 0 and ε outside the root (√G + ε). Kept as Optax has it, so that a run moved
    from there goes on as it was: with G₀ = .1 the place of ε changes a step by less than 10⁻⁶ of
    it. A coordinate whose G + ε is 0 does not move. Optax: `optax.adagrad`.

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

    `centered` subtracts the mean: the root is of ν − μ² + ε, with μ ← β μ + (1 − β) g. With
    `eps_in_sqrt=False` the divisor is √ν + ε, which is what PyTorch does. As in the lecture that
    introduced it, ν starts at 0 uncorrected, so that the first steps are long: η/√(1 − β), about
    3 η. `bias_correction` mends that. Optax: `optax.rmsprop`.

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
    nu_dtype: Any = None,
) -> optax.GradientTransformation:
    """Adam: μ ← β₁ μ + (1 − β₁) g, ν ← β₂ ν + (1 − β₂) g², θ ← θ − η μ̂ / (√(ν̂ + ε̄) + ε).

    The hats are the bias corrections μ̂ = μ/(1 − β₁ᵗ) and ν̂ = ν/(1 − β₂ᵗ), t = 1 at the first step.
    Texts that leave them out are wrong, not merely different: from μ = ν = 0 the uncorrected first
    step is (1 − β₁)/√(1 − β₂) = 3.2 times too long at the defaults, and it stays too long for about
    1/(1 − β₂) = 1000 steps, with both moments in the wrong proportion. ε belongs outside the root
    (`eps_root` is for those who differentiate through Adam). Optax: `optax.adam`.

    `mu_dtype` and `nu_dtype` are the dtypes in which μ and ν are kept, those of the parameters by
    default. ν in bfloat16 is rounded stochastically: β₂ = .999 changes it by .1 % at a step, and
    rounded to nearest, in steps of .4 to .8 %, it would not move. So take `nu_dtype=jnp.float32`
    for parameters in bfloat16.

    Raises:
      ValueError: `nu_dtype` has not float32's range (float16).

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx = tt.adam(0.5, eps=0.0)
    >>> [round(x, 4) for x in tx.update(jnp.array([8.0, -1e-3]), tx.init(jnp.ones(2)))[0].tolist()]
    [-0.5, 0.5]

    Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015.
    """
    tx = optax.adam(learning_rate, b1, b2, eps, eps_root, mu_dtype, nesterov=nesterov)
    return nu_in(tx, nu_dtype, "adam")


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
    nu_dtype: Any = None,
) -> optax.GradientTransformation:
    """AdamW: Adam with decoupled decay, θ ← θ − η (μ̂/(√ν̂ + ε) + λ θ).

    λ θ added to the *gradient* instead (`l2` before `adam`) is divided by √ν̂ with it, so that
    weights with large gradients are hardly decayed: that is not weight decay. The paper's λ is not
    multiplied by η; here, as in PyTorch and Optax, it is. `mask` says which leaves decay:
    `mask=decay_mask` spares biases and norms. `mu_dtype` and `nu_dtype`: as in `adam`. Optax:
    `optax.adamw`.

    Raises:
      ValueError: `nu_dtype` has not float32's range (float16).

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.adamw(0.5, weight_decay=0.5), jnp.array([4.0])
    >>> tx.update(jnp.zeros(1), tx.init(p), p)[0].tolist()
    [-1.0]

    Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019.
    """
    tx = optax.adamw(
        learning_rate, b1, b2, eps, eps_root, mu_dtype, weight_decay, mask, nesterov=nesterov
    )
    return nu_in(tx, nu_dtype, "adamw")


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

    Every step has length η in every coordinate: use a rate 3 to 10 times smaller and a decay as
    many times larger than AdamW's. Optax: `optax.lion`.

    >>> import jax.numpy as jnp, trainkit.transforms as tt
    >>> tx, p = tt.lion(0.5, weight_decay=0.0), jnp.ones(2)
    >>> tx.update(jnp.array([3.0, -1e-3]), tx.init(p), p)[0].tolist()
    [-0.5, 0.5]

    Chen et al., Symbolic Discovery of Optimization Algorithms, 2023.
    """
    return optax.lion(learning_rate, b1, b2, mu_dtype, weight_decay, mask)


adadelta = rule(real_only(optax.adadelta), needs_params=True)
adamax = rule(optax.adamax)
adabelief = rule(optax.adabelief)
nadam = rule(optax.nadam, name="nadam")
nadamw = rule(optax.nadamw, needs_params=True, name="nadamw")
novograd = rule(per_tensor(optax.novograd), needs_params=True)
lamb = rule(per_tensor(optax.lamb), needs_params=True)


@rule(needs_params=True)
@per_tensor
def lars(
    learning_rate: ScalarOrSchedule,
    weight_decay: ScalarOrSchedule = 0.0,
    weight_decay_mask: Any = True,
    trust_coefficient: float = 0.001,
    eps: float = 0.0,
    trust_ratio_mask: Any = True,
    momentum: float = 0.9,
    nesterov: bool = False,
    *,
    stacked: Stacked = None,
) -> optax.GradientTransformation:
    """LARS: v ← m v + η r (g + λ θ), θ ← θ − v, with r = c ‖θ‖/(‖g‖ + λ ‖θ‖ + ε) for each leaf.

    r is 1 where ‖θ‖ or the divisor is 0. `optax.lars` divides by ‖g + λ θ‖, which is smaller: where
    g and λ θ cancel, at a minimum of the decayed loss, its rate has no bound.

    >>> import jax.numpy as jnp
    >>> tx, p = lars(1.0, weight_decay=0.5, trust_coefficient=1.0, momentum=0.0), jnp.array([2.0])
    >>> tx.update(jnp.array([-3.0]), tx.init(p), p)[0].tolist()
    [1.0]

    You, Gitman and Ginsburg, Large Batch Training of Convolutional Networks, 2017, equation 6.
    """

    def init(params: Any) -> optax.ScaleByScheduleState:
        return optax.ScaleByScheduleState(count=jnp.zeros((), jnp.int32))

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        decay = weight_decay(state.count) if callable(weight_decay) else weight_decay
        whole = lambda mask: jax.tree.broadcast(mask(params) if callable(mask) else mask, params)

        def one(g: Any, p: Any, decays: Any, trusts: Any) -> Any:
            own = scalar_like(decay, g) * (1 if decays else 0)
            size = safe_norm(p).astype(g.dtype)
            below = safe_norm(g).astype(g.dtype) + own * size
            some = (size > 0) & (below > 0)
            ratio = trust_coefficient * size / jnp.where(some, below + eps, 1)
            return (g + own * p) * (jnp.where(some, ratio, 1) if trusts else 1)

        masks = (True if m is None else m for m in (weight_decay_mask, trust_ratio_mask))
        out = jax.tree.map(one, updates, params, *map(whole, masks))
        return out, optax.ScaleByScheduleState(optax.safe_increment(state.count))

    return optax.chain(
        optax.GradientTransformation(init, update),
        optax.scale_by_learning_rate(learning_rate),
        optax.trace(momentum, nesterov),
    )
