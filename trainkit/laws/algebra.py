"""Laws of algebra: what composing, masking, batching and scanning may not change."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from trainkit.laws import cases, told
from trainkit.laws.accumulation import accumulates
from trainkit.laws.compare import BITWISE, COMPARE
from trainkit.laws.intake import first_line, ordinary
from trainkit.laws.law import Law, Violation
from trainkit.laws.promises import clipped, commutes, decoupled, guards
from trainkit.laws.purity import jit_in_float64
from trainkit.laws.shrink import mismatch
from trainkit.laws.subject import Subject, mini
from trainkit.laws.symmetries import degree, elementwise, odd, permutes, rotates
from trainkit.laws.trees import RELATIVE, gap_of, same_bits, setup

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


def _differs(subject: Subject, other: Any, words: str) -> bool:
    """Whether a rule that has the same operations gives other updates.

    Called eagerly they are the same to the last bit; compiled they are two programs, which may be
    rounded in two ways.
    """
    params, grads = mini()
    plain, found = _eager(subject), subject.trajectory(other, params, grads[:4])
    if not subject.slow:
        return not same_bits(found, plain)

    def agree_in_float64() -> bool:
        params, grads = mini("float64")
        one, two = (subject.trajectory(tx, params, grads[:4]) for tx in (subject.tx, other))
        return gap_of(one, two, tight=1e-5)[1] <= 1

    gap = gap_of(plain, found)[1]
    return gap > 1 and not subject.only_rounding(RELATIVE * gap, agree_in_float64, words)


def chains(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for words, wrap in CHAINS.items():
        if _differs(subject, wrap(subject.tx), words):
            yield Violation(
                f"{words} is not the rule itself",
                {"params": params, "gradients": grads[:4]},
                setup(params, grads[:4]) + COMPARE.format(other=words, test=BITWISE),
            )
            return


def masked(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    everything = optax.masked(subject.tx, {"b": True, "w": True})
    words = "optax.masked(tx, {'b': True, 'w': True})"
    if _differs(subject, everything, words):
        yield Violation(
            "masked by all-true it is another rule", {"params": params, "gradients": grads[:4]},
            setup(params, grads[:4]) + COMPARE.format(other=words, test=BITWISE),
        )  # fmt: skip
        return
    if set(told.FUNCTIONS) & set(subject.needs):
        subject.notes.append(
            "masked and partitioned: it evaluates a loss of the whole tree, which a part of the "
            "tree is no argument for; only the mask of everything was tried"
        )
        return
    # Two groups, each with an instance of the rule; every one must train as if it were alone.
    one, two = subject.tx, subject.fresh()
    rules = (
        optax.partition({"one": one, "two": two}, {"b": "one", "w": "two"}),
        _only(one, "b"), _only(two, "w"),
    )  # fmt: skip
    together, alone = _parted(subject, rules, params, grads[:4])
    t, gap = gap_of(alone, together)

    def agree_in_float64() -> bool:
        params, grads = mini("float64")
        return gap_of(*_parted(subject, rules, params, grads[:4]), tight=1e-5)[1] <= 1

    if gap > 1 and not subject.only_rounding(RELATIVE * gap, agree_in_float64, "partition"):
        names = [n for n in params if gap_of([alone[t][n]], [together[t][n]])[1] > 1]
        yield Violation(
            f"in a partition the leaf {' and '.join(map(repr, names))} trains otherwise than alone "
            f"(step {t + 1})",
            {"params": params, "gradients": grads[: t + 1], "found": together[t],
             "expected": alone[t]},
            setup(params, grads[: t + 1]) + _PARTS,
        )  # fmt: skip


def _only(tx: Any, name: str) -> Any:
    """`tx` on one leaf of a tree; what it is told of is what the whole tree's rules are told."""
    part = lambda t: {name: t[name]}

    def update(g: Any, s: Any, p: Any, **extra: Any) -> Any:
        if "grad" in extra:
            extra["grad"] = part(extra["grad"])
        return tx.update(part(g), s, part(p), **extra)

    return optax.GradientTransformationExtraArgs(lambda p: tx.init(part(p)), update)


def _parted(
    subject: Subject, rules: tuple[Any, ...], params: Any, grads: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The updates of a partition, and those of its rules alone along the same parameters."""
    together, alone = [], []
    with ordinary():
        calls = [lambda g, s, p, tx=tx: subject.update(g, s, p, tx=tx) for tx in rules]
        calls = [jax.jit(call) for call in calls] if subject.slow else calls
        states = [tx.init(params) for tx in rules]
        for g in grads:
            out = [call(g, s, params) for call, s in zip(calls, states, strict=True)]
            (whole, *parts), states = [u for u, _ in out], [s for _, s in out]
            together.append(whole)
            alone.append({k: v for part in parts for k, v in part.items()})
            params = optax.apply_updates(params, whole)
    return together, alone


_PARTS = """rule, told = globals().get('bare', tx), globals().get('told', lambda rule: rule)
def only(name):
    part = lambda t: {name: t[name]}
    update = lambda g, s, p, **more: rule.update(part(g), s, part(p), **more)
    return optax.GradientTransformationExtraArgs(lambda p: rule.init(part(p)), update)
groups = optax.partition({'one': rule, 'two': rule}, {'b': 'one', 'w': 'two'})
rules = [told(r) for r in (groups, only('b'), only('w'))]
states = [r.init(params) for r in rules]
for g in grads:
    (both, b, w), states = zip(*[r.update(g, s, params) for r, s in zip(rules, states)])
    for name, alone in {**b, **w}.items():
        assert jnp.allclose(both[name], alone, rtol=1e-5, atol=1e-6), (name, both[name], alone)
    params = optax.apply_updates(params, both)
"""


def vmap_is_loop(subject: Subject) -> Violation | None:
    names, steps = ["plain", "scaled", "gaps"], 8

    def one(base: Any, grads: Any) -> Any:
        tree = lambda flat: cases.tree(flat, cases.SHAPES)
        state = subject.tx.init(tree(base[0]))
        out = lambda s, x: _swap(subject.update(tree(x[1]), s, tree(x[0])))
        return jax.lax.scan(out, state, (base, grads))[1]

    def wrong(dtype: str, tolerance: float) -> Any:
        """(the first difference, what was found, what was expected) of the two, or None."""
        b = subject.runs(dtype).batch
        pick = np.array([b.rows[n] for n in names])
        ps, gs = (x[pick, :steps].astype(jnp.dtype(dtype)) for x in (b.params, b.grads))
        with ordinary():
            together = np.asarray(jax.jit(jax.vmap(one))(ps, gs), np.float64)
        for name, found in zip(names, together, strict=True):
            expected = subject.run(name, dtype).flat[:steps]
            near = tolerance * (np.abs(expected) + 0.1 * np.abs(expected).max())
            if not b.follow[b.rows[name]] and (first := mismatch(found, expected, near)):
                return first, found, expected, _vmap_script(ps, gs)
        return None

    if not (differs := wrong("float32", RELATIVE)):
        return None
    first, found, expected, script = differs
    gap = abs(first.found - first.expected) / max(float(np.abs(expected).max()), 1e-300)
    if subject.only_rounding(gap, lambda: wrong("float64", 1e-10) is None, "vmap"):
        return None
    return Violation(
        f"vmapped over problems the update at step {first.step + 1} is {first.found:.9g}, one at a "
        f"time it is {first.expected:.9g}",
        {"step": first.step, "found": found, "expected": expected}, script,
    )  # fmt: skip


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


ONCE = {
    "tolerance": "bitwise called eagerly; compiled as below, or what rounding makes of it, which "
    "float64 tells",
    "why": "the same operations, which a compiler may round otherwise",
}
LAWS = (
    algebra("identity and associativity", "Chaining with the identity, and nesting chains, changes "
            "nothing.", chains, **ONCE),
    algebra("masked and partitioned", "Masked by all-true is unmasked; a partition trains each "
            "part as if it were alone.", masked, **ONCE),
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
