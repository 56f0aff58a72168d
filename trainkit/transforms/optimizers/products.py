"""Products with the Hessian or Gauss-Newton matrix, and conjugate gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from trainkit._core.dtypes import widest

PyTree = Any


def hvp(fn: Callable[[PyTree], jax.Array], params: PyTree, vector: PyTree) -> PyTree:
    """∇²f(θ) v, the Hessian-vector product, by forward over reverse mode, at the cost of about 4 f.

    >>> import jax.numpy as jnp
    >>> hvp(lambda x: jnp.sum(x**3), jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
    [6.0, 12.0]

    Pearlmutter, Fast Exact Multiplication by the Hessian, 1994.
    """
    return jax.jvp(jax.grad(fn), (params,), (vector,))[1]


def gnvp(
    fn: Callable[[PyTree], PyTree],
    params: PyTree,
    vector: PyTree,
    loss: Callable[[PyTree], jax.Array] | None = None,
) -> PyTree:
    """Jᵀ H J v, the Gauss-Newton product of loss(fn(θ)): positive semi-definite for a convex loss.

    J is the Jacobian of `fn` and H the Hessian of `loss` in fn's output; without a `loss`, H = 1,
    as for ½‖fn(θ)‖².

    >>> import jax.numpy as jnp
    >>> gnvp(lambda x: x**2, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()
    [4.0, 16.0]

    Schraudolph, Fast Curvature Matrix-Vector Products for Second-Order Gradient Descent, 2002.
    """
    outputs, tangent = jax.jvp(fn, (params,), (vector,))
    if loss is not None:
        tangent = hvp(loss, outputs, tangent)
    return jax.vjp(fn, params)[1](tangent)[0]


def linearised(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """`fn(params, *args)` with the second derivative by `params` set to 0.

    The Hessian of a loss L(f(θ)) is then Jᵀ H J, the Gauss-Newton matrix. So `newton_cg` with a
    linearised model is Gauss-Newton, also in a train step, where no device has the residuals of the
    whole batch. Derivatives by `args` are not supported.

    >>> import jax.numpy as jnp
    >>> f = lambda x: jnp.sum(linearised(jnp.square)(x)) + jnp.sum(linearised(jnp.square)(x) ** 2)
    >>> hvp(f, jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])).tolist()  # 2 J², without 2 (1 + 2 x²)
    [8.0, 32.0]
    """

    @functools.wraps(fn)
    def wrapped(params: PyTree, *args: Any) -> PyTree:
        @jax.custom_jvp
        def of_params(params: PyTree) -> PyTree:
            return fn(params, *args)

        @of_params.defjvp
        def _(primals: Any, tangents: Any) -> Any:
            fixed = jax.lax.stop_gradient(primals[0])
            by_params = lambda p: fn(p, *args)
            return of_params(primals[0]), jax.jvp(by_params, (fixed,), tangents)[1]

        return of_params(params)

    return wrapped


def _dot(a: PyTree, b: PyTree) -> jax.Array:
    dtype = widest(a)
    parts = [
        jnp.sum(x.astype(dtype) * y.astype(dtype))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    ]
    return sum(parts, jnp.zeros((), dtype))


def axpy(a: jax.Array, x: PyTree, y: PyTree) -> PyTree:
    """a x + y, leaf by leaf, in the dtypes of y."""
    return jax.tree.map(lambda u, v: a.astype(v.dtype) * u + v, x, y)


def conjugate_gradient(
    matvec: Callable[[PyTree], PyTree], b: PyTree, *, max_iterations: int, tol: Any
) -> tuple[PyTree, jax.Array]:
    """Solves A x = b from x = 0, until ‖b − A x‖ ≤ tol ‖b‖; stops at non-positive curvature.

    At non-positive curvature it returns the current x, or b in the first iteration. For b = −∇f,
    the result is always a descent direction (Steihaug, 1983). Returns x and the number of
    iterations.

    >>> import jax.numpy as jnp
    >>> x, n = conjugate_gradient(lambda v: 2.0 * v, jnp.array([4.0]), max_iterations=5, tol=1e-6)
    >>> x.tolist(), int(n)
    ([2.0], 1)
    """
    norm2 = _dot(b, b)
    limit = jnp.square(jnp.asarray(tol).astype(norm2.dtype)) * norm2
    start = (jax.tree.map(jnp.zeros_like, b), b, b, norm2, jnp.zeros((), jnp.int32), norm2 > 0)

    def going(carry: Any) -> jax.Array:
        _, _, _, residual2, n, on = carry
        return on & (residual2 > limit) & (n < max_iterations)

    def step(carry: Any) -> Any:
        x, r, p, residual2, n, _ = carry
        ap = matvec(p)
        curvature = _dot(p, ap)
        positive = curvature > 0
        alpha = residual2 / jnp.where(positive, curvature, 1)
        fallback = jax.tree.map(lambda u, v: jnp.where(n == 0, v, u), x, b)
        moved = axpy(alpha, p, x)
        x = jax.tree.map(lambda a, c: jnp.where(positive, a, c), moved, fallback)
        r = axpy(-alpha, ap, r)
        new2 = _dot(r, r)
        p = axpy(new2 / residual2, p, r)
        return x, r, p, new2, n + 1, positive

    x, _, _, _, iterations, _ = jax.lax.while_loop(going, step, start)
    return x, iterations
