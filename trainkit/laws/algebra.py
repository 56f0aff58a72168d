"""Laws of algebra: what composing, masking, batching and scanning may not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import cases
from trainkit.laws.accumulation import accumulates
from trainkit.laws.compare import BITWISE, COMPARE
from trainkit.laws.law import Law, Violation
from trainkit.laws.promises import clipped, commutes, decoupled, guards
from trainkit.laws.purity import jit_in_float64
from trainkit.laws.shrink import mismatch
from trainkit.laws.subject import Subject, first_line, mini, ordinary
from trainkit.laws.symmetries import degree, elementwise, odd, permutes, rotates
from trainkit.laws.trees import gap_of, same_bits, setup, spread

CHAINS: dict[str, Callable[[Any], Any]] = {
    "optax.chain(optax.identity(), tx)": lambda tx: optax.chain(optax.identity(), tx),
    "optax.chain(tx, optax.identity())": lambda tx: optax.chain(tx, optax.identity()),
    "optax.chain(optax.chain(tx), optax.identity())": lambda tx: optax.chain(
        optax.chain(tx), optax.identity()
    ),
}


def _eager(subject: Subject) -> list[Any]:
    params, grads = mini()
    return subject.remember(
        ("eager", "plain"), lambda: subject.trajectory(subject.tx, params, grads[:4])
    )


def chains(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    plain = _eager(subject)
    for words, wrap in CHAINS.items():
        if not same_bits(subject.trajectory(wrap(subject.tx), params, grads[:4]), plain):
            yield Violation(
                f"{words} is not the rule itself",
                {"params": params, "gradients": grads[:4]},
                setup(params, grads[:4]) + COMPARE.format(other=words, test=BITWISE),
            )
            return


def masked(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    plain = _eager(subject)
    everything = {"b": True, "w": True}
    out = subject.trajectory(optax.masked(subject.tx, everything), params, grads[:4])
    if not same_bits(out, plain):
        yield Violation(
            "masked by all-true it is another rule", {"params": params, "gradients": grads[:4]},
            setup(params, grads[:4]) + COMPARE.format(
                other="optax.masked(tx, {'b': True, 'w': True})", test=BITWISE),
        )  # fmt: skip
        return
    # Two groups, each with an instance of the rule; every one must train as if it were alone.
    both = optax.partition({"one": subject.tx, "two": subject.fresh()}, {"b": "one", "w": "two"})
    together = subject.trajectory(both, params, grads[:4])
    for name in params:
        alone = subject.trajectory(
            subject.tx, {name: params[name]}, [{name: g[name]} for g in grads[:4]]
        )
        for u, v in zip(together, alone, strict=True):
            x, y = np.asarray(u[name], np.float64), np.asarray(v[name], np.float64)
            if not np.all(np.abs(x - y) <= spread(y)) and "value" not in subject.needs:
                yield Violation(
                    f"in a partition the leaf {name!r} trains otherwise than alone",
                    {"params": params, "gradients": grads[:4], "found": x, "expected": y},
                    setup(params, grads[:4])
                    + "parts = optax.partition({'one': tx, 'two': tx}, {'b': 'one', 'w': 'two'})\n"
                    f"a, _ = parts.update(grads[0], parts.init(params), params)\n"
                    f"p, g = {{'{name}': params['{name}']}}, {{'{name}': grads[0]['{name}']}}\n"
                    f"b, _ = tx.update(g, tx.init(p), p)\n"
                    f"assert jnp.allclose(a['{name}'], b['{name}'], rtol=1e-5), (a, b)",
                )
                return


def vmap_is_loop(subject: Subject) -> Violation | None:
    b = subject.runs().batch
    names = ["plain", "scaled", "gaps"]
    steps = 8
    pick = np.array([b.rows[n] for n in names])
    ps, gs = (np.asarray(x[pick, :steps], np.float32) for x in (b.params, b.grads))

    def one(base: Any, grads: Any) -> Any:
        tree = lambda flat: cases.tree(flat, cases.SHAPES)
        state = subject.tx.init(tree(base[0]))
        out = lambda s, x: _swap(subject.update(tree(x[1]), s, tree(x[0])))
        return jax.lax.scan(out, state, (base, grads))[1]

    with ordinary():
        together = np.asarray(jax.jit(jax.vmap(one))(ps, gs), np.float64)
    follow = b.follow[pick]
    for name, found, f in zip(names, together, follow, strict=True):
        expected = subject.run(name).flat[:steps]
        near = 1e-5 * np.abs(expected) + 1e-6 * np.abs(expected).max()
        wrong = mismatch(found, expected, near)
        if wrong and not f:
            return Violation(
                f"vmapped over problems the update at step {wrong.step + 1} is {wrong.found:.9g}, "
                f"one at a time it is {wrong.expected:.9g}",
                {"problem": name, "step": wrong.step, "found": found, "expected": expected},
                _vmap_script(ps, gs),
            )
    return None


def _swap(pair: Any) -> Any:
    updates, state = pair
    return state, cases.flatten(updates)


def _vmap_script(ps: Any, gs: Any) -> str:
    return (
        f"params = {{'w': jnp.array({ps[:, 0, :3].tolist()})}}\n"
        f"grads = {{'w': jnp.array({gs[:, :2, :3].tolist()})}}\n"
        "def run(p, gs):\n    state = tx.init(p)\n    for i in range(2):\n"
        "        u, state = tx.update({'w': gs['w'][i]}, state, p)\n    return u\n"
        "both = jax.vmap(run)(params, grads)['w']\n"
        "for i in range(len(both)):\n"
        "    one = run({'w': params['w'][i]}, {'w': grads['w'][i]})['w']\n"
        "    assert jnp.allclose(both[i], one, rtol=1e-5), (both[i], one)"
    )


def scan_is_loop(subject: Subject) -> Violation | None:
    params, grads = mini()
    stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)

    def scan(params: Any, grads: Any) -> Any:
        step = lambda s, g: subject.update(g, s, params)[::-1]
        return jax.lax.scan(step, subject.tx.init(params), grads)[1]

    code = setup(params, grads) + (
        "stack = jax.tree.map(lambda *x: jnp.stack(x), *grads)\n"
        "step = lambda s, g: tx.update(g, s, params)[::-1]\n"
        "scanned = jax.jit(lambda: jax.lax.scan(step, tx.init(params), stack)[1])()\n"
        "state, jitted = tx.init(params), jax.jit(tx.update)\n"
        "for i, g in enumerate(grads):\n    u, state = jitted(g, state, params)\n"
        "    for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(scanned)):\n"
        "        assert jnp.allclose(x, y[i], rtol=1e-5, atol=1e-6), (x, y[i])"
    )
    loop = subject.trajectory(subject.tx, params, grads, apply=False)
    with ordinary():
        try:
            out = jax.jit(scan)(params, stack)
        except Exception as error:
            return Violation(
                f"it cannot be scanned: {type(error).__name__}: {first_line(error)}",
                {"params": params, "gradients": grads}, code)  # fmt: skip
    steps = [jax.tree.map(lambda x, t=t: x[t], out) for t in range(len(loop))]
    t, gap = gap_of(loop, steps)
    if gap <= 1 or subject.only_rounding(1e-5 * gap, lambda: jit_in_float64(subject), "scan"):
        return None
    return Violation(
        f"step {t + 1} of a scan differs from the same step of a loop",
        {"params": params, "gradients": grads[: t + 1], "found": steps[t], "expected": loop[t]},
        code,
    )


def algebra(name: str, statement: str, check: Any, **more: Any) -> Law:
    near = {
        "reference": "the algebra of gradient transformations",
        "tolerance": "1e-5 relative, 1e-6 of the largest entry",
        "why": "other programs round differently; float32 has 6e-8 a step",
        "group": "algebra",
    }
    return Law(name, statement, check, **(near | more))


EXACT = {"tolerance": "bitwise", "why": "the same operations on the same numbers"}


LAWS = (
    algebra("identity and associativity", "Chaining with the identity, and nesting chains, changes "
            "nothing.", chains, **EXACT),
    algebra("masked and partitioned", "Masked by all-true is unmasked; a partition trains each "
            "part as if it were alone.", masked),
    algebra("vmap is a loop", "Vmapped over independent problems is one problem at a time.",
            vmap_is_loop),
    algebra("scan is a loop", "n scanned steps are n calls.", scan_is_loop),
    algebra("element-wise", "Concatenating leaves concatenates updates, and a NaN in one element "
            "reaches no other.", elementwise, claim="element-wise"),
    algebra("odd", "update(−g) = −update(g) along a trajectory.", odd, claim="odd",
            tolerance="1e-6 relative", why="negation rounds nothing"),
    algebra("degree", "Scaling all gradients by k scales the updates by k to the claimed power.",
            degree, claim="degree", tolerance="2e-5 relative",
            why="k is a power of two; what is left is ε = 1e-8 beside gradients of order 1"),
    algebra("permutation", "Permuting coordinates inside leaves permutes the updates.", permutes,
            claim="permutation"),
    algebra("rotation", "Rotating parameters and gradients rotates the updates.", rotates,
            claim="rotation", tolerance="1e-4 relative", why="a rotation rounds 21 terms"),
    algebra("decoupled decay", "The decay adds −η λ p to the update and touches no moment.",
            decoupled, claim="decoupled decay", reference="Loshchilov & Hutter 2019",
            tolerance="3e-6 of the decay plus 1e-6 of the updates",
            why="a difference of two float32 numbers"),
    algebra("clip", "Never longer than the bound, unchanged within it, direction kept.", clipped,
            claim="clip", tolerance="1e-5 relative"),
    algebra("accumulation", "k micro-gradients are one step with their mean, by weight where they "
            "have one, and zeros in between; one NaN does not outlive its window.", accumulates,
            claim="accumulation"),
    algebra("guard", "A non-finite gradient leaves parameters and state as they were.", guards,
            claim="guard", **EXACT),
    algebra("wrapper order", "Two wrappers that are said to commute do.", commutes,
            claim="commutes with"),
)  # fmt: skip
