"""Gradient noise: annealed noise, and Langevin dynamics, which samples a posterior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from trainkit._core import validation
from trainkit._core.dtypes import scalar_like, uphill
from trainkit.transforms.rule import rule

PyTree = Any


class NoiseState(NamedTuple):
    """State of the rules that add noise.

    Attributes:
      count: int32 scalar, the number of updates; each folds its number into the key.
      key: uint32[2], the data of a random key, which never changes.
    """

    count: Any  # an array; tuples have a method of this name
    key: jax.Array


def key_data(key: jax.Array | int) -> jax.Array:
    """The data of a random key or seed, as a copy.

    States hold the data instead of the key, because NumPy and checkpoints can store data. It is a
    copy, because a state may be donated, which must not delete the caller's key.
    """
    key = validation.key_of("key", key)
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    return jnp.copy(key)


def key_of_update(state: Any) -> jax.Array:
    """The random key of the next update, of a state with a `key` and a `count`."""
    return jax.random.fold_in(jax.random.wrap_key_data(state.key), state.count)


def keys_like(key: jax.Array, tree: PyTree) -> PyTree:
    """A different random key for each leaf."""
    structure: Any = jax.tree.structure(tree)
    keys = jax.random.split(key, max(structure.num_leaves, 1))
    return jax.tree.unflatten(structure, list(keys[: structure.num_leaves]))


def _init(key: jax.Array | int) -> NoiseState:
    return NoiseState(jnp.zeros((), jnp.int32), key_data(key))


def _normal_like(state: NoiseState, tree: PyTree) -> PyTree:
    """N(0, 1) for every number: the real and the imaginary part of a complex entry are two."""

    def draw(x: jax.Array, key: jax.Array) -> jax.Array:
        noise = jax.random.normal(key, x.shape, x.dtype)
        return noise * 2**0.5 if jnp.iscomplexobj(x) else noise  # JAX shares the 1 between them

    return jax.tree.map(draw, tree, keys_like(key_of_update(state), tree))


@rule
def gradient_noise(
    eta: float, gamma: float = 0.55, key: jax.Array | int = 0
) -> optax.GradientTransformation:
    """Annealed Gaussian noise: g ← g + N(0, η/(1 + t)^γ), t = 0 at the first step.

    η is a variance, not a standard deviation; real and imaginary parts have it each. Replicas with
    the same key add the same noise. Optax: `optax.add_noise`.

    >>> import jax.numpy as jnp
    >>> tx = gradient_noise(0.0)
    >>> tx.update(jnp.ones(2), tx.init(jnp.ones(2)))[0].tolist()
    [1.0, 1.0]

    Neelakantan et al., Adding Gradient Noise Improves Learning for Very Deep Networks, 2015.
    """

    def update(updates: PyTree, state: NoiseState, params: PyTree = None) -> Any:
        t = state.count.astype(jnp.result_type(float))
        deviation = jnp.sqrt(eta / (1 + t) ** gamma)
        noise = _normal_like(state, updates)
        new = jax.tree.map(lambda g, n: g + deviation.astype(g.dtype) * n, updates, noise)
        return new, NoiseState(optax.safe_increment(state.count), state.key)

    return optax.GradientTransformation(lambda params: _init(key), update)


@rule(needs_params=True)
def sgld(
    learning_rate: Any,
    num_data: int = 1,
    prior: float | Callable[[PyTree], jax.Array] = 0.0,
    temperature: float = 1.0,
    key: jax.Array | int = 0,
) -> optax.GradientTransformation:
    """Stochastic-gradient Langevin dynamics: the parameters become samples of the posterior.

    θ ← θ − (ε/2) (N ḡ + ∇U₀(θ)) + √(ε T) ξ, ξ ~ N(0, 1), where ḡ is the gradient of the *mean*
    negative log-likelihood over a batch and U₀ the negative log-density of the prior. At T = 1 and
    small or decreasing ε the iterates are distributed as p(θ | data) ∝ exp(−U₀(θ) − Σᵢ ℓᵢ(θ)).
    Texts that add noise of deviation ε, or leave out the ½ or the N, sample another distribution.
    Optax has only `optax.noisy_sgd`, whose noise is annealed separately and samples no posterior.

    Args:
      learning_rate: ε, a number or a schedule.
      num_data: N, the number of examples in the data set; 1 if losses are already sums over it.
      prior: the precision λ of a Gaussian prior N(0, 1/λ) on every parameter (0: flat), or a
        function from the parameters to the scalar log-density of any other prior.
      temperature: T; 0 is gradient descent to the mode.
      key: a random key or an integer seed.

    >>> import jax.numpy as jnp
    >>> tx, p = sgld(0.5, num_data=10, prior=2.0, temperature=0.0), jnp.array([1.0])
    >>> tx.update(jnp.array([0.2]), tx.init(p), p)[0].tolist()  # −¼ (10·.2 + 2·1)
    [-1.0]

    Welling and Teh, Bayesian Learning via Stochastic Gradient Langevin Dynamics, 2011.
    """
    if not callable(prior):
        validation.number("prior", prior, "sgld", least=0)

    def prior_gradient(params: PyTree) -> PyTree:
        if callable(prior):
            return jax.tree.map(jnp.negative, uphill(jax.grad(prior)(params)))
        return jax.tree.map(lambda p: jnp.asarray(prior, p.dtype) * p, params)

    def update(updates: PyTree, state: NoiseState, params: PyTree = None) -> Any:
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate

        def one(g: jax.Array, u0: jax.Array, n: jax.Array) -> jax.Array:
            eps, heat = scalar_like(rate, g), scalar_like(temperature, g)
            return -eps / 2 * (num_data * g + u0) + jnp.sqrt(eps * heat) * n

        noise = _normal_like(state, updates)
        new = jax.tree.map(one, updates, prior_gradient(params), noise)
        return new, NoiseState(optax.safe_increment(state.count), state.key)

    return optax.GradientTransformation(lambda params: _init(key), update)
