"""The law of guarding: a gradient that is not finite changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from trainkit.laws.law import Law, Violation
from trainkit.laws.problems.comparison import same_bits
from trainkit.laws.protocol import ordinary
from trainkit.laws.reproducers.literals import setup
from trainkit.laws.subject import Subject, mini


def guards(subject: Subject) -> Iterator[Violation]:
    params, grads = mini()
    with ordinary():
        state = subject.tx.init(params)
        _, state = subject.update(grads[0], state, params)
        expected, _ = subject.update(grads[2], state, params)
        for bad in (jnp.nan, jnp.inf, -jnp.inf):
            broken = {"b": grads[1]["b"].at[0].set(bad), "w": grads[1]["w"]}
            u, after = subject.update(broken, state, params)
            script = setup(params, [grads[0], broken, grads[2]]) + (
                "_, state = tx.update(grads[0], tx.init(params), params)\n"
                "want, _ = tx.update(grads[2], state, params)\n"
                "u, state = tx.update(grads[1], state, params)\n"
                "assert all((x == 0).all() for x in jax.tree.leaves(u)), u\n"
                "got, _ = tx.update(grads[2], state, params)\n"
                "assert all((x == y).all() for x, y in zip(jax.tree.leaves(got), "
                "jax.tree.leaves(want))), (got, want)"
            )
            example = {"params": params, "gradients": [grads[0], broken, grads[2]]}
            if not all(np.all(np.asarray(x) == 0) for x in jax.tree.leaves(u)):
                yield Violation(f"a gradient with {bad} moves the parameters", example, script)
                return
            nxt, _ = subject.update(grads[2], after, params)
            if not same_bits(nxt, expected):
                yield Violation(
                    f"after a gradient with {bad} the next step is not as if it had not been",
                    example, script)  # fmt: skip
                return


LAWS = (
    Law("guard", "A non-finite gradient leaves parameters and state as they were.", guards,
            claim="guard", tolerance="bitwise", why="the same operations on the same numbers"),
)  # fmt: skip
