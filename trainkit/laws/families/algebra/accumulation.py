"""The law of accumulation: k micro-gradients make one step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.comparison import spread
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup, tree_code
from trainkit.laws.reproducers.programs import inner_code
from trainkit.laws.subject import Subject, mini


def accumulates(subject: Subject) -> Iterator[Violation]:
    """claims={"accumulation": {"k": k, "inner": the rule without accumulation}}

    Further entries: "weight", the name of the extra argument with a micro-gradient's weight;
    "mean": False for a rule that sums gradients; "poison": False if a NaN may persist after its
    window (at the strict level it never may).
    """
    claim = subject.claims["accumulation"]
    if claim is True:
        raise NotApplicable('say of what: claims={"accumulation": {"k": 4, "inner": tx}}')
    k, inner, weight = int(claim["k"]), claim["inner"], claim.get("weight")
    params, grads = mini()
    rng = np.random.default_rng(5)
    micro = [jax.tree.map(lambda g: g * float(rng.normal()) + 0.1, grads[t % 6])
             for t in range(3 * k)]  # fmt: skip
    equal: Any = np.ones(len(micro))
    tries = {"equal ones": ([g for g in grads[:3] for _ in range(k)], equal),
             "different ones": (micro, equal)}  # fmt: skip
    if weight is not None:
        uneven = np.arange(len(micro)) % (k + 1) + 1.0
        uneven[k - 1] = 0.0 if k > 1 else 1.0
        tries["ones of uneven weight"] = (micro, uneven)
    for words, (gs, ws) in tries.items():
        found = _accumulated(subject, gs, ws, weight)
        whole = _windows(gs, ws, k, claim.get("mean", True))
        alone = subject.trajectory(inner, params, whole, apply=False)
        code = _ACCUMULATION.format(
            setup=setup(params, gs), inner=inner_code(inner), k=k, whole=tree_code(whole),
            extra=f"{weight}=ws[t]" if weight else "", ws=ws.tolist(),
        )  # fmt: skip
        for t, u in enumerate(found):
            last = (t + 1) % k == 0
            want = alone[t // k] if last else jax.tree.map(jnp.zeros_like, u)
            for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(want), strict=True):
                if not np.all(np.abs(np.asarray(x - y)) <= 2 * spread(np.asarray(y)) + 1e-12):
                    what = "the full step" if last else "zero in between"
                    yield Violation(
                        f"micro-step {t + 1} of {k} {words} gives another update than {what}",
                        {"params": params, "gradients": gs[: t + 1], "weights": ws[: t + 1],
                         "found": u, "expected": want}, code)  # fmt: skip
                    return
    masked = _in_a_mask(subject, micro, weight)
    if masked:
        yield masked
        return
    if not claim.get("poison", True) and subject.level != "strict":
        return
    poisoned = [jax.tree.map(lambda x: jnp.full_like(x, jnp.nan), grads[0]), *micro[1:]]
    finite = lambda us: all(np.isfinite(x).all() for u in us for x in jax.tree.leaves(u))
    # If the inner rule itself stores a NaN, this is not tested.
    windows = _windows(poisoned, equal, k, claim.get("mean", True))
    forgets = finite(subject.trajectory(inner, params, windows, apply=False)[2:])
    if forgets and not finite(_accumulated(subject, poisoned, equal, weight)[2 * k :]):
        yield Violation(
            "one NaN micro-gradient is still there after its window",
            {"params": params, "gradients": poisoned},
            setup(params, poisoned[: 3 * k]) + "state = tx.init(params)\n"
            "for g in grads:\n    u, state = tx.update(g, state, params)\n"
            "assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(u)), u",
            level=None if claim.get("poison", True) else "strict",
        )


def _accumulated(subject: Subject, gs: list[Any], ws: np.ndarray, weight: str | None) -> list[Any]:
    """The updates, each from a state that was on the host, as of a run that stops at every step."""
    params, _ = mini()

    def step_of(tx: Any) -> Any:
        def step(g: Any, state: Any, w: Any) -> Any:
            extra = subject.extra(params, g) | ({} if weight is None else {weight: w})
            return tx.update(g, state, params, **extra)

        return jax.jit(step)

    with ordinary():
        subject.clock.check()
        steps = subject.memo.setdefault(
            ("accumulation", weight), [step_of(subject.tx), step_of(subject.fresh())]
        )
        state, out = subject.tx.init(params), []
        for t, (g, w) in enumerate(zip(gs, ws, strict=True)):
            u, state = steps[t % 2](g, state, jnp.float32(w))
            state = jax.device_put(jax.device_get(state))
            out.append(u)
        return out


def _in_a_mask(subject: Subject, gs: list[Any], weight: str | None) -> Violation | None:
    """A violation if, inside a mask, a leaf is not accumulated as it is alone."""
    if weight is not None or subject.needs or subject.extra_args:
        return None
    params, _ = mini()
    tx = optax.masked(subject.tx, {"b": False, "w": True})
    apply = lambda tx, p, gs: subject.trajectory(tx, p, gs, apply=False)
    only = lambda t: {"w": t["w"]}
    found = [u["w"] for u in apply(tx, params, gs)]
    wanted = [u["w"] for u in apply(subject.tx, only(params), list(map(only, gs)))]
    for t, (x, y) in enumerate(zip(found, wanted, strict=True)):
        if not np.all(np.abs(np.asarray(x - y)) <= 2 * spread(np.asarray(y)) + 1e-12):
            return Violation(
                f"at micro-step {t + 1} inside optax.masked a leaf moves otherwise than alone",
                {"params": params, "gradients": gs[: t + 1], "found": x, "expected": y},
                setup(params, gs[: t + 1]) + "only = lambda t: {'w': t['w']}\n"
                "masked = optax.masked(tx, {'b': False, 'w': True})\n"
                "a, b = masked.init(params), tx.init(only(params))\n"
                "for g in grads:\n    u, a = masked.update(g, a, params)\n"
                "    v, b = tx.update(only(g), b, only(params))\n"
                "    near = 1e-5 * abs(v['w']).max()\n"
                "    assert jnp.allclose(u['w'], v['w'], rtol=1e-4, atol=near), (u, v)",
            )  # fmt: skip
    return None


def _windows(gs: list[Any], ws: np.ndarray, k: int, mean: bool) -> list[Any]:
    """The gradient of every window: Σ w g / Σ w, or Σ w g."""
    out = []
    for a in range(0, len(gs), k):
        w = ws[a : a + k] / (ws[a : a + k].sum() if mean else 1.0)
        sums = lambda *xs, w=w: jnp.asarray(
            sum(f * np.asarray(x, np.float64) for f, x in zip(w, xs, strict=True)), xs[0].dtype
        )
        out.append(jax.tree.map(sums, *gs[a : a + k]))
    return out


_ACCUMULATION = (
    "{inner}\n{setup}ws = {ws}\nwhole = {whole}\nstate, alone = tx.init(params), []\n"
    "inner_state = inner.init(params)\nfor g in whole:\n"
    "    u, inner_state = inner.update(g, inner_state, params)\n    alone.append(u)\n"
    "for t, g in enumerate(grads):\n    u, state = tx.update(g, state, params, {extra})\n"
    "    want = alone[t // {k}] if (t + 1) % {k} == 0 else jax.tree.map(jnp.zeros_like, u)\n"
    "    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(want)):\n"
    "        assert jnp.allclose(x, y, rtol=1e-4, atol=1e-5 * abs(y).max()), (t, x, y)"
)


LAWS = (
    Law("accumulation", "k micro-gradients are one step with their mean, by weight where they "
            "have one, and zeros in between; one NaN does not outlive its window.", accumulates,
            claim="accumulation"),
)  # fmt: skip
