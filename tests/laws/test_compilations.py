"""What a check compiles: a program serves all laws that only run the rule."""

import jax
import optax

from trainkit.laws.protocol import ordinary
from trainkit.laws.subject import Subject, mini


def test_a_slow_rule_is_compiled_once_for_all_laws_that_only_run_it():
    traced = []

    def update(g, s, p=None):
        if isinstance(jax.tree.leaves(g)[0], jax.core.Tracer):
            traced.append(len(jax.tree.leaves(g)))
        return jax.tree.map(
            lambda x: jax.lax.scan(lambda c, _: (c * 0.9, None), -0.1 * x, length=9)[0], g
        ), s

    tx = optax.GradientTransformation(lambda p: (), update)
    subject = Subject(tx)
    subject.memo["slow when eager"] = True
    params, grads = mini()
    for _ in range(3):
        subject.trajectory(tx, params, grads)
        with ordinary():
            subject.compiled()(grads[0], (), params)
    assert traced == [2]
