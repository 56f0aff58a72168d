"""Rules of the second order."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.optimizers.products import axpy, conjugate_gradient, gnvp, hvp
from trainkit.transforms.rule import real_only, rule

PyTree = Any


class NewtonState(NamedTuple):
    """State of `newton_cg` and `gauss_newton`.

    Attributes:
      count: int32 scalar, the updates made.
      iterations: int32 scalar, the iterations of conjugate gradients in the last one.
    """

    count: Any  # an array; tuples have a method of this name
    iterations: jax.Array


def _newton(
    learning_rate: Any, damping: Any, max_iterations: int, tol: Any, product: Any
) -> optax.GradientTransformationExtraArgs:
    def init(params: PyTree) -> NewtonState:
        return NewtonState(jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32))

    def update(updates: PyTree, state: NewtonState, params: PyTree = None, **extra: Any) -> Any:
        matvec = product(params, **extra)

        def damped(v: PyTree) -> PyTree:
            return axpy(jnp.asarray(damping), v, matvec(v))

        right = jax.tree.map(jnp.negative, updates)
        step, n = conjugate_gradient(damped, right, max_iterations=max_iterations, tol=tol)
        rate = learning_rate(state.count) if callable(learning_rate) else learning_rate
        step = jax.tree.map(lambda d: scalar_like(rate, d) * d, step)
        return step, NewtonState(optax.safe_increment(state.count), n)

    return optax.GradientTransformationExtraArgs(init, update)


@rule(needs_params=True)
@functools.partial(real_only, wrapped=False)
def newton_cg(
    learning_rate: Any = 1.0,
    damping: float = 0.0,
    max_iterations: int = 50,
    tol: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """Newton's method, inexactly: θ ← θ + η d with (∇²f + λ) d = −g solved by conjugate gradients.

    Only products with the Hessian are taken, and negative curvature ends the solve (see
    `conjugate_gradient`), so that d is a direction of descent. `update` takes `value_fn`, the
    scalar loss as a function of the parameters; `make_train_step` passes it. Not in Optax.

    Raises:
      ValueError: `update` without `value_fn`.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
    >>> tx, p = newton_cg(), jnp.array([3.0, -2.0])
    >>> u, _ = tx.update(jax.grad(f)(p), tx.init(p), p, value_fn=f)
    >>> bool(jnp.all(jnp.abs(p + u) < 1e-4))
    True

    Dembo, Eisenstat and Steihaug, Inexact Newton Methods, 1982; Martens, Deep learning via
    Hessian-free optimization, 2010.
    """

    def product(params: PyTree, value_fn: Any = None, **_: Any) -> Any:
        if value_fn is None:
            raise ValueError(
                "newton_cg needs the loss: call update(grads, state, params, value_fn=f) with f a "
                "function of the parameters that returns a scalar."
            )
        return lambda v: hvp(value_fn, params, v)

    return _newton(learning_rate, damping, max_iterations, tol, product)


@rule(needs_params=True)
@functools.partial(real_only, wrapped=False)
def gauss_newton(
    learning_rate: Any = 1.0,
    damping: float = 1e-3,
    max_iterations: int = 50,
    tol: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """Gauss-Newton: θ ← θ + η d with (Jᵀ H J + λ) d = −g, solved by conjugate gradients.

    `update` takes `residual_fn`, from the parameters to residuals r (or outputs), and optionally
    `output_loss`, from them to the scalar loss; without it the loss is ½‖r‖² and H = 1, and with
    `damping` λ this is Levenberg-Marquardt. The matrix is never indefinite, unlike Newton's. In
    `make_train_step`, take `newton_cg` and a loss whose model is `linearised`. Not in Optax.

    Raises:
      ValueError: `update` without `residual_fn`.

    >>> import jax, jax.numpy as jnp
    >>> r = lambda w: jnp.array([[1.0, 2.0], [0.0, 3.0], [1.0, 1.0]]) @ w - jnp.ones(3)
    >>> tx, w = gauss_newton(damping=0.0), jnp.zeros(2)
    >>> g = jax.grad(lambda w: 0.5 * jnp.sum(r(w) ** 2))(w)
    >>> u, _ = tx.update(g, tx.init(w), w, residual_fn=r)
    >>> [round(float(x), 3) for x in w + u]  # least squares
    [0.526, 0.316]

    Martens and Grosse, Optimizing Neural Networks with Kronecker-factored Approximate Curvature,
    2015, section 6; Levenberg, 1944.
    """

    def product(params: PyTree, residual_fn: Any = None, output_loss: Any = None, **_: Any) -> Any:
        if residual_fn is None:
            raise ValueError(
                "gauss_newton needs the residuals: call update(grads, state, params, "
                "residual_fn=r) with r a function of the parameters whose ½‖r‖² is the loss (or "
                "pass output_loss). In make_train_step, take newton_cg and wrap the model in the "
                "loss: linearised(model)."
            )
        return lambda v: gnvp(residual_fn, params, v, output_loss)

    return _newton(learning_rate, damping, max_iterations, tol, product)


@rule(needs_params=True)
@functools.partial(real_only, wrapped=False)
def lbfgs(
    learning_rate: Any = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Any = "zoom",
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS: θ ← θ − η H g, H the inverse Hessian that the last `memory_size` steps imply.

    H is applied by the two-loop recursion. By default η comes from a zoom line search, for which
    `update` takes `value_fn` (and `value` and `grad`, where they are known already), as
    `make_train_step` passes them; `linesearch=None` steps by `learning_rate` alone.
    For full batches: noise between gradients is taken for curvature. Optax: `optax.lbfgs`.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sum(jnp.array([1.0, 100.0]) * x**2)
    >>> tx, p = lbfgs(), jnp.array([3.0, -2.0])
    >>> state = tx.init(p)
    >>> for _ in range(10):
    ...     value, grad = jax.value_and_grad(f)(p)
    ...     u, state = tx.update(grad, state, p, value=value, grad=grad, value_fn=f)
    ...     p = p + u
    >>> bool(f(p) < 1e-6)
    True

    Liu and Nocedal, On the limited memory BFGS method for large scale optimization, 1989.
    """
    if linesearch == "zoom":
        linesearch = optax.scale_by_zoom_linesearch(
            max_linesearch_steps=20, initial_guess_strategy="one"
        )
    inner = optax.lbfgs(learning_rate, memory_size, scale_init_precond, linesearch)
    if linesearch is None:
        return inner

    def update(
        updates: PyTree,
        state: Any,
        params: PyTree = None,
        *,
        value: Any = None,
        grad: Any = None,
        value_fn: Any = None,
        **_: Any,
    ) -> Any:
        # Optax hands every unknown extra argument to `value_fn`, and raises where it takes none.
        if value_fn is None:
            raise ValueError(
                "lbfgs needs the loss for its line search: call update(grads, state, params, "
                "value_fn=f) with f a function of the parameters that returns a scalar, or make "
                "it with linesearch=None and a learning_rate."
            )
        return inner.update(
            updates,
            state,
            params,
            value=value_fn(params) if value is None else value,
            grad=updates if grad is None else grad,
            value_fn=value_fn,
        )

    return optax.GradientTransformationExtraArgs(inner.init, update)


@rule(needs_params=True)
@functools.partial(real_only, wrapped=False)
def sophia(
    learning_rate: Any,
    b1: float = 0.965,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: Any = 1e-4,
    weight_decay_mask: Any = None,
    gamma: float = 0.01,
    clip_threshold: float | None = 1.0,
    update_interval: int = 10,
    key: jax.Array | int = 0,
    *,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Sophia-H: θ ← θ − η (clip(μ / max(γ h, ε), ±ρ) + λ θ), h an EMA of the Hessian's diagonal.

    Every `update_interval` steps h ← β₂ h + (1 − β₂) z ⊙ ∇²f z, with random signs z, before the
    step divides by it. `update` takes `value_fn`, the loss as a function of the parameters
    (Optax calls it `obj_fn`; either is taken). Under data parallelism it must average over devices,
    as the one that `make_train_step` passes does. Signs for the paper's normal z: the estimate has
    the same mean and less variance. `optax.contrib.sophia` corrects μ for its start at 0, and
    divides by the h of the step before, which at first is 0: its first steps are signs.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sum(x**2)
    >>> tx, p = sophia(0.5, b1=0.5, b2=0.5, gamma=1.0, weight_decay=0.0), jnp.array([1.0, -2.0])
    >>> tx.update(jax.grad(f)(p), tx.init(p), p, value_fn=f)[0].tolist()
    [-0.5, 0.5]

    Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer, 2023, algorithm 3.
    """
    seed = jax.random.key_data(jax.random.key(key)) if isinstance(key, int) else key
    estimate = optax.contrib.hutchinson_estimator_diag_hessian(seed)
    scaled = _scale_by_sophia(b1, b2, eps, gamma, clip_threshold, update_interval, estimate)
    inner = optax.chain(
        scaled,
        optax.add_decayed_weights(weight_decay, weight_decay_mask),
        optax.scale_by_learning_rate(learning_rate),
    )

    def init(params: PyTree) -> Any:
        # A copy of the key: the state may be donated, and the rule used again.
        state = jax.tree.map(lambda x: jnp.copy(x) if x is seed else x, inner.init(params))
        return (state[0]._replace(mu=optax.tree.cast(state[0].mu, mu_dtype)), *state[1:])

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        fn = extra.pop("value_fn", None) or extra.pop("obj_fn", None)
        if fn is None:
            raise ValueError(
                "sophia needs the loss: call update(grads, state, params, value_fn=f) with f a "
                "function of the parameters that returns a scalar."
            )
        return inner.update(updates, state, params, obj_fn=fn)

    return optax.GradientTransformationExtraArgs(init, update)


def _scale_by_sophia(
    b1: Any, b2: Any, eps: Any, gamma: Any, bound: Any, every: int, estimate: Any
) -> optax.GradientTransformationExtraArgs:
    def init(params: PyTree) -> optax.contrib.SophiaState:
        zeros = lambda: jax.tree.map(jnp.zeros_like, params)
        count = jnp.zeros((), jnp.int32)
        return optax.contrib.SophiaState(count, zeros(), zeros(), estimate.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        def anew(held: Any, h: PyTree) -> Any:
            diagonal, held = estimate.update(updates, held, params=params, **extra)
            return held, jax.tree.map(lambda x, d: b2 * x + (1 - b2) * d, h, diagonal)

        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        due, keep = state.count % every == 0, lambda held, h: (held, h)
        held, nu = jax.lax.cond(due, anew, keep, state.hessian_fn_state, state.nu)
        out = jax.tree.map(lambda m, h: m / jnp.maximum(gamma * h, eps), mu, nu)
        if bound is not None:
            out = jax.tree.map(lambda u: jnp.clip(u, -bound, bound), out)
        count = optax.safe_increment(state.count)
        return out, optax.contrib.SophiaState(count, mu, nu, held)

    return optax.GradientTransformationExtraArgs(init, update)
