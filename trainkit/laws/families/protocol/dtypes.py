"""Laws of dtypes: updates and states keep their dtypes, for mixed dtypes too."""

from __future__ import annotations

from collections.abc import Iterator

from trainkit.laws.families.protocol.structure import CHECK_TREE, STATE_CHECK, shapes_of
from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import same_tree
from trainkit.laws.problems.trees import cast
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def no_promotion(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for dtype in ("float32", "bfloat16", *(("float16",) if subject.level == "strict" else ())):
        p, g = cast(params, dtype), cast(grads[0], dtype)
        code = setup(p, g) + CHECK_TREE
        with ordinary():
            _, updates, _ = shapes_of(subject, p, g)
        wrong = same_tree(updates, g)
        if wrong:
            yield Violation(
                f"with parameters and gradients of {dtype}: {wrong}",
                {"params": p, "gradients": g, "found": updates},
                code,
                level="strict" if dtype == "float16" else None,
            )
            return


def no_promotion_mixed(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    for pd, gd in (("float32", "bfloat16"), ("bfloat16", "float32"), ("float32", "float16")):
        p, g = cast(params, pd), cast(grads[0], gd)
        with ordinary():
            state, updates, after = shapes_of(subject, p, g)
            wrong = same_tree(after, state)
        if wrong:
            yield Violation(
                f"parameters {pd}, gradients {gd}: after one update the state has {wrong}",
                {"params": p, "gradients": g},
                setup(p, g) + STATE_CHECK,
            )
            return
        wrong = same_tree(updates, g)
        if wrong and same_tree(updates, p):
            yield Violation(
                f"parameters {pd}, gradients {gd}: the updates have neither's dtype: {wrong}",
                {"params": p, "gradients": g},
                setup(p, g) + CHECK_TREE,
            )
            return


LAWS = (
    Law("no promotion", "Gradients and parameters of one dtype give updates of that dtype.",
             no_promotion),
    Law("mixed dtypes", "Parameters of one dtype and gradients of another keep the state's "
             "dtypes, and the updates have one of the two.", no_promotion_mixed, level="strict"),
)  # fmt: skip
