"""Laws of purity: equal inputs give equal outputs, and inputs are not changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import bits, same_bits
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def purity(subject: Subject) -> Iterator[Violation]:
    with ordinary():
        for look in (_changed_containers, _written_arrays, _remembered):
            found = look(subject, subject.fresh())
            if found:
                yield found
                return


def _changed_containers(subject: Subject, tx: Any) -> Violation | None:
    """A violation if an argument or its containers were changed."""
    params, grads = mini()
    _, state = subject.update(grads[0], tx.init(params), params, tx=tx)
    mine = jax.tree.map(lambda x: x, (grads[1], state, params))
    held, before = copy.deepcopy(_containers(mine)), bits(mine)
    subject.update(mine[0], mine[1], mine[2], tx=tx)
    if _containers(mine) == held and all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(bits(mine), before, strict=True)
    ):
        return None
    params, grads = mini()  # what is shown is what was given, whatever became of it
    return Violation(
        "update changed a container that it was given (gradients, state or parameters)",
        {"params": params, "gradients": grads[:2]},
        setup(params, grads[:3]) + "state = tx.init(params)\nimport copy\n"
        "words = lambda: str((grads[0], state, params))\n"
        "before = words()\ntx.update(grads[0], state, params)\n"
        "assert words() == before, (before, words())",
    )


def _written_arrays(subject: Subject, tx: Any) -> Violation | None:
    """Tests NumPy gradients, which an `*=` would overwrite; a rule need not accept them."""
    params, grads = mini()
    state = tx.init(params)
    arrays = jax.tree.map(lambda x: np.array(x), (grads[2], params))
    unchanged = copy.deepcopy(arrays)
    try:
        subject.update(arrays[0], state, arrays[1], tx=tx)
        touched = not same_bits(arrays, unchanged)
    except Exception:
        touched = False
    return Violation(
        "update wrote into the NumPy arrays that it was given",
        {"params": params, "gradients": grads[:1]},
        setup(params, grads[0]) + "import numpy as np\ng = jax.tree.map(np.array, grads)\n"
        "tx.update(g, tx.init(params), jax.tree.map(np.array, params))\n"
        "assert all((a == b).all() for a, b in zip(jax.tree.leaves(g), "
        "jax.tree.leaves(grads))), (g, grads)",
    ) if touched else None  # fmt: skip


def _remembered(subject: Subject, tx: Any) -> Violation | None:
    """The same call, repeated after other calls and instances, must give the same bits."""
    params, grads = mini()
    state = tx.init(params)
    once, after = subject.update(grads[0], state, params, tx=tx)
    busy = subject.fresh()
    other = busy.init(jax.tree.map(lambda p: 2 * p, params))
    for g in grads[3:]:
        _, other = subject.update(jax.tree.map(lambda x: 3 * x, g), other, params, tx=busy)
    again, after_again = subject.update(grads[0], state, params, tx=tx)
    third = subject.fresh()
    anew, after_anew = subject.update(grads[0], third.init(params), params, tx=third)
    for what, u, s in (
        ("the same call made again", again, after_again),
        ("a new instance of the rule", anew, after_anew),
    ):
        if not (same_bits(u, once) and same_bits(s, after)):
            return Violation(
                f"{what} gave another result: something is remembered outside the state",
                {"params": params, "gradients": grads[0], "found": u, "expected": once},
                setup(params, grads[:3]) + "state = tx.init(params)\n"
                "once = tx.update(grads[0], state, params)\n"
                "for g in grads:\n    _, s = tx.update(g, tx.init(params), params)\n"
                "again = tx.update(grads[0], tx.init(params), params)\n"
                "same = jax.tree.map(lambda a, b: bool((a == b).all()), once, again)\n"
                "assert all(jax.tree.leaves(same)), (once, again)",
            )
    return None


def _containers(tree: Any) -> Any:
    """The containers of a tree, and the identities of their items."""
    if isinstance(tree, dict):
        return {k: _containers(v) for k, v in tree.items()}
    if isinstance(tree, list | tuple):
        return [_containers(v) for v in tree]
    return id(tree)


LAWS = (
    Law("purity", "The same inputs give the same bits, whatever was called before or beside, "
             "and inputs are left as they were.", purity, tolerance="exact",
             why="the same operations on the same numbers"),
)  # fmt: skip
