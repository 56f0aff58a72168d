"""Laws of composition: chains, masks and partitions do not change a rule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import optax

from trainkit.laws import losses
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems.comparison import gap_of, same_bits, spread
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.programs import BITWISE, COMPARE, NEAR, inner_code
from trainkit.laws.subject import Subject, mini
from trainkit.laws.subject.update_pairs import first_difference

CHAINS: dict[str, Callable[[Any], Any]] = {
    "optax.chain(optax.identity(), tx)": lambda tx: optax.chain(optax.identity(), tx),
    "optax.chain(tx, optax.identity())": lambda tx: optax.chain(tx, optax.identity()),
    "optax.chain(optax.chain(tx), optax.identity())": lambda tx: optax.chain(
        optax.chain(tx), optax.identity()
    ),
}


def _differs(subject: Subject, other: Any, words: str) -> bool:
    """Whether a rule that has the same operations gives other updates.

    Eager results must be equal bitwise. Compiled programs may be rounded differently.
    """
    plain = lambda p, gs: subject.remember(
        ("eager", str(gs[0]["b"].dtype)), lambda: subject.trajectory(subject.tx, p, gs)
    )
    wrapped = lambda p, gs: subject.trajectory(other, p, gs)
    if subject.slow:
        return first_difference(subject, plain, wrapped, words, steps=4) is not None
    params, grads = mini()
    return not same_bits(wrapped(params, grads[:4]), plain(params, grads[:4]))


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
    structure: Callable[[Any], Any] = jax.tree.structure
    given = subject.extra(params, grads[0])
    shaped = [k for k, v in given.items() if structure(v) == structure(params)]
    whole = [*(set(losses.FUNCTIONS) & set(subject.needs)), *(set(shaped) - set(losses.NAMES))]
    if whole:
        subject.notes.append(
            f"masked and partitioned: {', '.join(whole)} is of the whole tree, which a part of the "
            "tree is no argument for; only the mask of everything was tried"
        )
        return
    # Two groups, each with an instance of the rule; each must train as if it were alone.
    one, two = subject.tx, subject.fresh()
    rules = (
        optax.partition({"one": one, "two": two}, {"b": "one", "w": "two"}),
        _only(one, "b"), _only(two, "w"),
    )  # fmt: skip
    runs: dict[str, Any] = {}

    def alone(params: Any, grads: list[Any]) -> list[Any]:
        kind = str(grads[0]["b"].dtype)
        runs[kind], out = _parted(subject, rules, params, grads)
        return out

    together = lambda p, gs: runs[str(gs[0]["b"].dtype)]
    apart = first_difference(subject, alone, together, "partition", steps=4)
    if apart:
        t, expected, found = apart
        names = [n for n in params if gap_of([expected[n]], [found[n]])[1] > 1]
        yield Violation(
            f"in a partition the leaf {' and '.join(map(repr, names))} trains otherwise than alone "
            f"(step {t + 1})",
            {"params": params, "gradients": grads[: t + 1], "found": found, "expected": expected},
            setup(params, grads[: t + 1]) + _PARTS,
        )


def _only(tx: Any, name: str) -> Any:
    """`tx` on one leaf of a tree; its extra arguments are those of the whole tree."""
    part = lambda t: {name: t[name]}

    def update(g: Any, s: Any, p: Any, **extra: Any) -> Any:
        if "grad" in extra:
            extra["grad"] = part(extra["grad"])
        return tx.update(part(g), s, part(p), **extra)

    return optax.GradientTransformationExtraArgs(lambda p: tx.init(part(p)), update)


def _parted(
    subject: Subject, rules: tuple[Any, ...], params: Any, grads: list[Any]
) -> tuple[list[Any], list[Any]]:
    """The updates of a partition, and those of its rules alone with the same parameters."""
    together, alone = [], []
    with ordinary():
        calls = [lambda g, s, p, tx=tx: subject.update(g, s, p, tx=tx) for tx in rules]
        calls = list(map(subject.compiled, rules)) if subject.slow else calls
        states = [tx.init(params) for tx in rules]
        for g in grads:
            out = [call(g, s, params) for call, s in zip(calls, states, strict=True)]
            (whole, *parts), states = [u for u, _ in out], [s for _, s in out]
            together.append(whole)
            alone.append({k: v for part in parts for k, v in part.items()})
            params = optax.apply_updates(params, whole)
    return together, alone


_PARTS = """rule, supplied = globals().get('bare', tx), globals().get('supplied', lambda rule: rule)
def only(name):
    part = lambda t: {name: t[name]}
    update = lambda g, s, p, **more: rule.update(part(g), s, part(p), **more)
    return optax.GradientTransformationExtraArgs(lambda p: rule.init(part(p)), update)
groups = optax.partition({'one': rule, 'two': rule}, {'b': 'one', 'w': 'two'})
rules = [supplied(r) for r in (groups, only('b'), only('w'))]
states = [r.init(params) for r in rules]
for g in grads:
    (both, b, w), states = zip(*[r.update(g, s, params) for r, s in zip(rules, states)])
    for name, alone in {**b, **w}.items():
        near = 1e-6 * abs(alone).max()
        assert jnp.allclose(both[name], alone, rtol=1e-5, atol=near), (name, both[name], alone)
    params = optax.apply_updates(params, both)
"""


def commutes(subject: Subject) -> Violation | None:
    """claims={"commutes with": another transformation}"""
    other = subject.claims["commutes with"]
    if other is True:
        raise NotApplicable('say with what: claims={"commutes with": tx}')
    params, grads = mini()
    one = subject.trajectory(optax.chain(subject.tx, other), params, grads[:4])
    two = subject.trajectory(optax.chain(other, subject.tx), params, grads[:4])
    for u, v in zip(one, two, strict=True):
        for x, y in zip(jax.tree.leaves(u), jax.tree.leaves(v), strict=True):
            if not np.all(np.abs(np.asarray(x - y)) <= spread(np.asarray(y))):
                return Violation(
                    "the two orders of the chain give different updates",
                    {"params": params, "gradients": grads[:4], "found": u, "expected": v},
                    setup(params, grads[:4])
                    + inner_code(other, "other")
                    + "\nfirst, tx = optax.chain(tx, other), optax.chain(other, tx)\n"
                    + COMPARE.format(other="first", test=NEAR),
                )
    return None


ONCE: dict[str, Any] = {
    "tolerance": "bitwise called eagerly; compiled 1e-5 relative, or what rounding makes of it, "
    "which float64 tells",
    "why": "the same operations, which a compiler may round otherwise",
}
LAWS = (
    Law("identity and associativity", "Chaining with the identity, and nesting chains, changes "
            "nothing.", chains, **ONCE),
    Law("masked and partitioned", "Masked by all-true is unmasked; a partition trains each "
            "part as if it were alone.", masked, **ONCE),
    Law("wrapper order", "Two wrappers that are said to commute do.", commutes,
            claim="commutes with"),
)  # fmt: skip
