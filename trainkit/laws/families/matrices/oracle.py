"""The law of agreement on matrices that are large enough to be factored."""

from __future__ import annotations

import inspect

import numpy as np

from trainkit.laws.families.numbers.agreement import PAPER, infer_rate
from trainkit.laws.families.numbers.disagreement import disagreement
from trainkit.laws.law import Law, NotApplicable, Violation
from trainkit.laws.problems import cases
from trainkit.laws.problems.cases import Case
from trainkit.laws.problems.comparison import Mismatch
from trainkit.laws.problems.runs import Run
from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject

LARGEST = 512


@ordinary()
def above(subject: Subject) -> Violation | None:
    """claims={"factored": the size of both sides from which the rule factors a matrix}"""
    n = int(subject.claims["factored"])
    if subject.oracle is None:
        raise NotApplicable("no like= was given")
    if n > LARGEST:
        raise NotApplicable(f"matrices of {n} rows are too large; lower the rule's threshold")
    single = lambda x: np.asarray(x, np.float32).astype(np.float64)
    stack = not subject.claims.get("matrices")
    case = cases.matrices(subject.seed, n, stack)
    case = case._replace(params=single(case.params), grads=single(case.grads))
    run, rate = subject.replay(case), infer_rate(subject)
    wrong = disagreement(subject, case, run, "float32", rate)
    start = cases.offsets(case.shapes)[-2]
    if wrong and stack and wrong.at >= start and "factored" in subject.oracle.hyperparams:
        # The paper has matrices only: a stack of them may be left whole, as any tensor.
        tensor = _leaves(case, run, case.shapes[-1:], slice(start, None))
        if disagreement(subject, *tensor, "float32", {**rate, "factored": False}) is None:
            matrices = _leaves(case, run, case.shapes[:-1], slice(start))
            wrong = disagreement(subject, *matrices, "float32", rate)
    if wrong is None:
        return None
    leaf = int(np.searchsorted(cases.offsets(case.shapes), wrong.at, side="right")) - 1
    shown, kind = "×".join(map(str, case.shapes[leaf])), "matrix"
    if len(case.shapes[leaf]) > 2:
        kind = "stack of matrices"
    return Violation(
        f"at step {wrong.step + 1} of a {shown} {kind}, large enough to be factored, an "
        f"entry of the update is {wrong.found:.9g}; {subject.like} gives {wrong.expected:.9g}",
        {"shape": case.shapes[leaf], "step": wrong.step, "found": wrong.found,
         "expected": wrong.expected},
        _program(subject.seed, n, stack, wrong),
    )  # fmt: skip


def _leaves(
    case: Case, run: Run, shapes: tuple[tuple[int, ...], ...], at: slice
) -> tuple[Case, Run]:
    """The trajectory and the run of some leaves, which lie next to each other."""
    cut = lambda flat: flat[:, at]
    part = case._replace(shapes=shapes, params=cut(case.params), grads=cut(case.grads))
    return part, run._replace(flat=cut(run.flat), params=cut(run.params), grads=cut(run.grads))


def _program(seed: int, n: int, stack: bool, at: Mismatch) -> str:
    """The case is drawn anew: thousands of numbers would be no program to read."""
    made = [inspect.getsource(f) for f in (cases.Case, cases.sizes, cases.matrices)]
    return (
        "from typing import NamedTuple\nimport numpy as np\n" + "\n".join(made)
        + f"case = matrices({seed}, {n}, {stack})\n"
        "ends = np.cumsum(sizes(case.shapes))[:-1]\n"
        "def tree(flat):\n"
        "    parts = np.split(np.asarray(flat, 'float32'), ends)\n"
        f"    return {{k: jnp.asarray(x.reshape(s)) for k, x, s in zip({cases.NAMES}, parts, "
        "case.shapes)}\n"
        "state = tx.init(tree(case.params[0]))\n"
        f"for g, p in zip(case.grads[: {at.step + 1}], case.params):\n"
        "    u, state = jax.jit(tx.update)(tree(g), state, tree(p))\n"
        f"found = float(np.concatenate([x.ravel() for x in jax.tree.leaves(u)])[{at.at}])\n"
        f"assert abs(found - {at.expected!r}) <= {at.tolerance!r}, (found, {at.expected!r})"
    )  # fmt: skip


LAWS = (
    Law("oracle above the threshold", "On matrices that are large enough to be factored, the "
        "updates agree with the rule that it claims to be.", above, claim="factored",
        reference=PAPER, tolerance="as for the oracle", why="as there"),
)  # fmt: skip
