"""SOAP and Shampoo, refreshed every few steps."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from tests.laws.strangers.cases import Cases, f32, zeros

CASES = Cases()


class SoapLeaf(NamedTuple):
    L: Any
    R: Any
    QL: Any
    QR: Any


class Soap(NamedTuple):
    count: Any
    mu: Any
    nu: Any
    pre: Any


def soap(bug=None):
    def factory(
        learning_rate=3e-3, b1=0.9, b2=0.95, shampoo_beta=0.9, eps=1e-8, every=4, max_dim=512
    ):
        def sides(p):
            return p.ndim == 2 and p.size > 0 and max(p.shape) <= max_dim

        def init(params):
            def leaf(p):
                if not sides(p):
                    return None
                m, n = p.shape
                make = jnp.empty if bug == "uninit" else jnp.zeros
                return SoapLeaf(
                    make((m, m), f32),
                    make((n, n), f32),
                    jnp.eye(m, dtype=f32),
                    jnp.eye(n, dtype=f32),
                )

            return Soap(
                jnp.zeros([], jnp.int32),
                zeros(params, f32),
                zeros(params, f32),
                [leaf(p) for p in jax.tree.leaves(params)],
            )

        def update(grads, state, params=None):
            del params
            t = state.count + 1
            due = (t - 1) % every == 0
            if bug == "third_period":
                due = due & (t <= 2 * every)
            gs, tree = jax.tree.flatten(grads)
            mus, nus = jax.tree.leaves(state.mu), jax.tree.leaves(state.nu)
            out, new_mu, new_nu, new_pre = [], [], [], []
            for g, mu, nu, pre in zip(gs, mus, nus, state.pre, strict=True):
                dtype, g = g.dtype, g.astype(f32)
                if pre is not None:
                    keep = shampoo_beta
                    L = keep * pre.L + (1 - keep) * g @ g.T
                    R = keep * pre.R + (1 - keep) * g.T @ g
                    if bug == "stale_lost":
                        L = jnp.where(due, L, pre.L)
                        R = jnp.where(due, R, pre.R)
                    QL, QR = jax.lax.cond(
                        due,
                        lambda L, R, a, b: (jnp.linalg.eigh(L)[1], jnp.linalg.eigh(R)[1]),
                        lambda L, R, a, b: (a, b),
                        L,
                        R,
                        pre.QL,
                        pre.QR,
                    )
                    if bug == "mu_rotated":
                        gr = QL.T @ g @ QR
                        mu = b1 * mu + (1 - b1) * gr
                        mr = mu
                    else:
                        mu = b1 * mu + (1 - b1) * g
                        gr, mr = QL.T @ g @ QR, QL.T @ mu @ QR
                    if bug == "wrong_side":
                        gr, mr = QL @ g @ QR.T, QL @ mu @ QR.T
                    pre = SoapLeaf(L, R, QL, QR)
                else:
                    mu = b1 * mu + (1 - b1) * g
                    gr, mr = g, mu
                nu = b2 * nu + (1 - b2) * gr * gr
                m_hat = mr / (1 - b1**t)
                v_hat = nu if bug == "nobias" else nu / (1 - b2**t)
                u = m_hat / (jnp.sqrt(v_hat) + eps)
                if pre is not None and bug != "not_back":
                    u = QL.T @ u @ QR if bug == "back_transposed" else QL @ u @ QR.T
                out.append((-learning_rate * u).astype(dtype))
                new_mu.append(mu)
                new_nu.append(nu)
                new_pre.append(pre)
            un = functools.partial(jax.tree.unflatten, tree)
            return un(out), Soap(t, un(new_mu), un(new_nu), new_pre)

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "soap",
    soap,
    {
        "not_back": "the update stays in the eigenbasis",
        "back_transposed": "rotated back with the transposed basis",
        "wrong_side": "rotated in with the transposed basis",
        "stale_lost": "statistics gathered only at a refresh",
        "mu_rotated": "first moment kept in the old basis after a refresh",
        "uninit": "statistics in uninitialised memory",
        "nobias": "second moment without bias correction: the first steps are 4 times as long",
        "third_period": "no refresh after the second period",
    },
    claims=lambda f: {
        "orthogonal": True,
        "stale": lambda every: f(every=every),
        "transposes": True,
    },
)


def shampoo(bug=None):
    def power(a, p, ridge):
        if a.shape[0] == 0:
            return a
        w, v = jnp.linalg.eigh(a)
        if bug == "ridge_outside":
            return (v * (jnp.maximum(w, 1e-30) ** p + ridge)) @ v.T
        return (v * jnp.maximum(w, ridge) ** p) @ v.T

    def factory(learning_rate=0.1, epsilon=1e-3, every=1):
        def init(params):
            def leaf(p):
                if p.ndim != 2:
                    return {"acc": jnp.full(p.shape, epsilon, f32)}
                m, n = p.shape
                return {
                    "L": epsilon * jnp.eye(m, dtype=f32),
                    "R": epsilon * jnp.eye(n, dtype=f32),
                    "PL": jnp.eye(m, dtype=f32),
                    "PR": jnp.eye(n, dtype=f32),
                }

            return {
                "n": jnp.zeros((), jnp.int32),
                "leaves": tuple(leaf(p) for p in jax.tree.leaves(params)),
            }

        def update(grads, state, params=None):
            n = state["n"]
            if bug == "period":
                due = (n == 0) | (n % (every + 1) == every)
            else:
                due = n % every == 0
            gs, tree = jax.tree.flatten(grads)
            out, new = [], []
            for g, s in zip(gs, state["leaves"], strict=True):
                dtype, g = g.dtype, g.astype(f32)
                if "acc" in s:
                    acc = s["acc"] + g * g
                    out.append((-learning_rate * g / jnp.sqrt(acc)).astype(dtype))
                    new.append({"acc": acc})
                    continue
                L, R = s["L"] + g @ g.T, s["R"] + g.T @ g
                if bug == "stale_lost":
                    L, R = jnp.where(due, L, s["L"]), jnp.where(due, R, s["R"])
                e = -0.5 if bug == "exponent" else -0.25
                PL, PR = jax.lax.cond(
                    due,
                    lambda L, R, e, *old: (power(L, e, epsilon), power(R, e, epsilon)),
                    lambda L, R, e, *old: old,
                    *(L, R, e, s["PL"], s["PR"]),
                )
                u = PL @ g if bug == "one_side" else PL @ g @ PR
                out.append((-learning_rate * u).astype(dtype))
                new.append({"L": L, "R": R, "PL": PL, "PR": PR})
            return jax.tree.unflatten(tree, out), {"n": n + 1, "leaves": tuple(new)}

        return optax.GradientTransformation(init, update)

    return factory


CASES.add(
    "shampoo",
    shampoo,
    {
        "exponent": "powers of -1/2 on both sides",
        "one_side": "only the left preconditioner",
        "ridge_outside": "epsilon added to the root",
        "stale_lost": "statistics gathered only at a refresh",
        "period": "refreshed every k + 1 steps after the first time",
    },
    claims=lambda f: {
        "orthogonal": True,
        "transposes": True,
        "stale": lambda every: f(every=every),
        "hyperparameters": ["every", "epsilon"],
    },
)
