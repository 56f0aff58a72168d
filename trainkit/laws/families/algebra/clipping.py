"""Laws of size: an update is never longer than a bound; a clipped one is unchanged within it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems import cases
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.reproducers.programs import whole_run
from trainkit.laws.subject import Subject

# The size of a gradient for each kind of bound, here and in reproducers.
MEASURES: dict[str, tuple[Callable[[np.ndarray], float], str]] = {
    "global": (lambda flat: float(np.linalg.norm(flat)), "optax.global_norm(t)"),
    "element": (
        lambda flat: float(np.abs(flat).max()),
        "max(jnp.abs(x).max() for x in jax.tree.leaves(t))",
    ),
    "leaf rms": (
        lambda flat: max(float(np.sqrt(np.mean(x**2))) for x in cases.leaves(flat, cases.SHAPES)),
        "max(jnp.sqrt((x ** 2).mean()) for x in jax.tree.leaves(t))",
    ),
}


def _claimed(subject: Subject, name: str) -> tuple[str, float]:
    """(norm, bound) of a claim."""
    claim = subject.claims[name]
    if claim is True:
        raise NotApplicable(f'say what of: claims={{"{name}": {{"norm": "global", "bound": 1.0}}}}')
    return claim["norm"], float(claim["bound"])


def bounded(subject: Subject) -> Violation | None:
    """claims={"bounded": {"norm": "global" | "element" | "leaf rms", "bound": b}}"""
    kind, bound = _claimed(subject, "bounded")
    measure, code = MEASURES[kind]
    runs, most = subject.runs(), bound * (1 + 1e-5)
    for name, i in runs.batch.rows.items():
        sizes = np.array([measure(u) for u in runs.flat[i]])
        if name == "nan" or (sizes <= most).all():
            continue
        t = int(np.argmin(sizes <= most))
        case = runs.batch.case(i)
        return Violation(
            f"an update of size {sizes[t]:.6g}, over the bound {bound:g} (step {t + 1})",
            {"params": case.params[0], "gradients": case.grads[: t + 1], "found": runs.flat[i][t]},
            whole_run(case, t + 1) + f"size = lambda t: {code}\nu = tree(run('float32')[-1])\n"
            f"print(size(u))\nassert size(u) <= {most!r}, u",
        )  # fmt: skip
    return None


def clipped(subject: Subject) -> Violation | None:
    """claims={"clip": {"norm": "global" | "element" | "leaf rms", "bound": b}}"""
    kind, bound = _claimed(subject, "clip")
    measure, code = MEASURES[kind]
    runs = subject.runs()

    def found(message: str, g: np.ndarray, u: np.ndarray, t: int, test: str) -> Violation:
        tree = cases.tree(g.astype(np.float32), cases.SHAPES)
        return Violation(
            message, {"gradients": tree, "found": u, "step": t},
            setup(tree, tree) + "u, _ = tx.update(grads, tx.init(params), params)\n"
            f"size = lambda t: {code}\nprint(size(grads), size(u))\nassert {test}, u",
        )  # fmt: skip

    for name, i in runs.batch.rows.items():
        if name == "nan":
            continue
        for t, (g, u) in enumerate(zip(runs.grads[i], runs.flat[i], strict=True)):
            size, got = measure(g), measure(u)
            if not got <= bound * (1 + 1e-5):
                message = f"an update of size {got:.6g}, over the bound {bound:g}"
                return found(message, g, u, t, f"size(u) <= {bound * (1 + 1e-5)!r}")
            if size < bound * (1 - 1e-5) and not np.allclose(u, g, rtol=1e-6, atol=0):
                message = f"a gradient of size {size:.6g}, within the bound {bound:g}, was changed"
                same = "jax.tree.all(jax.tree.map(jnp.allclose, u, grads))"
                return found(message, g, u, t, same)
            if size > bound * (1 + 1e-5) and got < bound * (1 - 1e-4) and kind != "leaf rms":
                message = f"a gradient of size {size:.6g} was cut to {got:.6g}, not to {bound:g}"
                return found(message, g, u, t, f"size(u) >= {bound * (1 - 1e-4)!r}")
            if kind == "global" and size > bound:
                turned = 1 - float(g @ u) / (size * np.linalg.norm(u))
                if not turned <= 1e-5:
                    dot = "sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (u, grads))))"
                    test = f"{dot} >= 0.99999 * size(u) * size(grads)"
                    return found("clipping turned the direction", g, u, t, test)
    return None


LAWS = (
    Law("bounded", "No update is longer than the bound.", bounded, claim="bounded",
            tolerance="1e-5 relative", why="as for clip"),
    Law("clip", "Never longer than the bound, unchanged within it, direction kept.", clipped,
            claim="clip", tolerance="1e-5 relative", why="float32 has 6e-8, and sums of squares"),
)  # fmt: skip
