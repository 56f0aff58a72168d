"""Second-order rules."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from trainkit._core.dtypes import scalar_like
from trainkit.transforms.optimizers.products import axpy, conjugate_gradient, gnvp, hvp
from trainkit.transforms.rule import rule

PyTree = Any


class NewtonState(NamedTuple):
    """State of `newton_cg` and `gauss_newton`.

    Attributes:
      count: int32 scalar, the number of updates.
      iterations: int32 scalar, the conjugate-gradient iterations of the last update.
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
def newton_cg(
    learning_rate: Any = 1.0,
    damping: float = 0.0,
    max_iterations: int = 50,
    tol: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """Inexact Newton method: θ ← θ + η d with (∇²f + λ) d = −g, by conjugate gradients.

    It uses only Hessian-vector products. Negative curvature ends the iteration (see
    `conjugate_gradient`), so that d is a descent direction. `update` takes `value_fn`, the
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
def gauss_newton(
    learning_rate: Any = 1.0,
    damping: float = 1e-3,
    max_iterations: int = 50,
    tol: float = 1e-6,
) -> optax.GradientTransformationExtraArgs:
    """Gauss-Newton: θ ← θ + η d with (Jᵀ H J + λ) d = −g, solved by conjugate gradients.

    `update` takes `residual_fn`, a function from the parameters to residuals r (or outputs), and
    optionally `output_loss`, a function from them to the scalar loss. Without it the loss is ½‖r‖²
    and H = 1, which is Levenberg-Marquardt with `damping` λ. Unlike the Hessian, the matrix is
    never indefinite. In `make_train_step`, use `newton_cg` and a loss with a `linearised` model.
    Not in Optax.

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
                "pass output_loss). In make_train_step, use newton_cg and wrap the model in the "
                "loss: linearised(model)."
            )
        return lambda v: gnvp(residual_fn, params, v, output_loss)

    return _newton(learning_rate, damping, max_iterations, tol, product)


@rule(needs_params=True)
def lbfgs(
    learning_rate: Any = None,
    memory_size: int = 10,
    scale_init_precond: bool = True,
    linesearch: Any = "zoom",
) -> optax.GradientTransformationExtraArgs:
    """L-BFGS: θ ← θ − η H g, with H an inverse Hessian estimate from the last `memory_size` steps.

    H is applied by the two-loop recursion. By default η comes from a zoom line search. For that,
    `update` takes `value_fn` (and `value` and `grad`, if they are known), which `make_train_step`
    passes. With `linesearch=None`, η is `learning_rate`. Use it with full batches, because it
    interprets gradient noise as curvature. Optax: `optax.lbfgs`.

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
        # Optax passes every unknown extra argument to `value_fn`, which may not accept them.
        if value_fn is None:
            raise ValueError(
                "lbfgs needs the loss for its line search: call update(grads, state, params, "
                "value_fn=f) with f a function of the parameters that returns a scalar, or use "
                "linesearch=None and a learning_rate."
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
def sophia(
    learning_rate: Any,
    b1: float = 0.965,
    b2: float = 0.99,
    eps: float = 1e-8,
    weight_decay: float = 1e-4,
    weight_decay_mask: Any = None,
    gamma: float = 0.01,
    clip_threshold: float | None = 1.0,
    update_interval: int = 10,
    key: jax.Array | int = 0,
    *,
    mu_dtype: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """Sophia-H: θ ← θ − η (clip(μ̂ / max(γ h, ε), ±ρ) + λ θ), h an EMA of the Hessian's diagonal.

    Every `update_interval` steps, h ← β₂ h + (1 − β₂) z ⊙ ∇²f z, with random signs z. A step uses
    the h of the previous step. `update` takes `value_fn`, the loss as a function of the parameters
    (or `obj_fn`, its name in Optax). With data parallelism it must average over devices, as the one
    from `make_train_step` does. It departs from the paper as Optax does: μ is bias-corrected, and z
    has random signs instead of normal values. Optax: `optax.contrib.sophia`.

    >>> import jax, jax.numpy as jnp
    >>> f = lambda x: jnp.sum(x**2)
    >>> tx, p = sophia(0.5, weight_decay=0.0), jnp.array([3.0, -2.0])
    >>> tx.update(jax.grad(f)(p), tx.init(p), p, value_fn=f)[0].tolist()
    [-0.5, 0.5]

    Liu et al., Sophia: A Scalable Stochastic Second-order Optimizer, 2023.
    """
    seed = jax.random.key_data(jax.random.key(key)) if isinstance(key, int) else key
    inner = optax.contrib.sophia(
        learning_rate,
        b1,
        b2,
        eps,
        weight_decay,
        weight_decay_mask,
        gamma,
        clip_threshold,
        update_interval,
        optax.contrib.hutchinson_estimator_diag_hessian(seed),
        mu_dtype,
    )

    def init(params: PyTree) -> Any:
        # Copy the key, because the state may be donated and the rule used again.
        return jax.tree.map(lambda x: jnp.copy(x) if x is seed else x, inner.init(params))

    def update(updates: PyTree, state: Any, params: PyTree = None, **extra: Any) -> Any:
        fn = extra.pop("value_fn", None) or extra.pop("obj_fn", None)
        if fn is None:
            raise ValueError(
                "sophia needs the loss: call update(grads, state, params, value_fn=f) with f a "
                "function of the parameters that returns a scalar."
            )
        return inner.update(updates, state, params, obj_fn=fn)

    return optax.GradientTransformationExtraArgs(init, update)
