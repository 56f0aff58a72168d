"""The law of memory: nothing is read that nobody wrote."""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import same_bits
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def poisoned(call: Any) -> Any:
    """What `call` returns while `jnp.empty`, `np.empty` and their like give NaN, or 99."""

    def dirty(real: Any) -> Any:
        def empty(*args: Any, **kwargs: Any) -> Any:
            x = real(*args, **kwargs)
            value = jnp.nan if jnp.issubdtype(x.dtype, jnp.inexact) else 99
            return jnp.full_like(x, value) if isinstance(x, jax.Array) else np.full_like(x, value)

        return empty

    real = {(m, name): getattr(m, name) for m in (jnp, np) for name in ("empty", "empty_like")}
    try:
        for (module, name), function in real.items():
            setattr(module, name, dirty(function))
        return call()
    finally:
        for (module, name), function in real.items():
            setattr(module, name, function)


@ordinary()
def memory(subject: Subject) -> Violation | None:
    params, grads = mini()

    def both() -> Any:
        params, grads = mini()  # anew, as a rule may write to what it is given
        tx = subject.fresh()
        state = tx.init(params)
        return state, subject.update(grads[0], state, params, tx=tx)

    (clean, first), (dirty, other) = both(), poisoned(both)
    if same_bits(clean, dirty) and same_bits(first, other):
        return None
    what = "state of init" if not same_bits(clean, dirty) else "first update"
    return Violation(
        f"the {what} depends on memory that was never written: it uses an array of jnp.empty or "
        "np.empty; take zeros",
        {"params": params, "found": dirty, "expected": clean},
        "import numpy as np\n" + inspect.getsource(poisoned) + setup(params, grads[0])
        + "def both():\n    state = tx.init(params)\n"
        "    return state, tx.update(grads, state, params)\n"
        "for x, y in zip(jax.tree.leaves(both()), jax.tree.leaves(poisoned(both))):\n"
        "    assert np.array_equal(np.asarray(x), np.asarray(y)), (x, y)",
    )  # fmt: skip


LAWS = (
    Law("memory", "init and the first update do not depend on memory that nobody wrote.", memory,
        reference="jax.numpy.empty", tolerance="bitwise",
        why="since JAX 0.11 jnp.empty is not initialised"),
)  # fmt: skip
