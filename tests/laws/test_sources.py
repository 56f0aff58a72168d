"""What is written down of a rule is that rule, and needs nothing of the user's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws import user_rules
from trainkit.laws.protocol import build, ordinary
from trainkit.laws.reproducers import source

P = {"b": jnp.array([1.0, -2.0]), "w": jnp.array([[0.5, 3.0]])}


def run(tx):
    with ordinary():
        state, out = tx.init(P), []
        for k in (1.0, -0.3):
            u, state = tx.update(jax.tree.map(lambda x, k=k: jnp.sin(x * k), P), state, P)
            out += jax.tree.leaves(u)
    return out


@pytest.mark.parametrize("name", user_rules.RULES)
def test_the_written_rule_is_the_rule(name):
    subject = user_rules.RULES[name]
    with ordinary():
        code = source.rule(subject, "tx", None, None)
        assert "user_rules" not in code
        assert "elsewhere" not in code
        scope = {"__name__": "__main__"}
        exec(compile(source.HEADER + code, "a rule", "exec"), scope)
    for written, original in zip(run(scope["tx"]), run(build(subject)), strict=True):
        assert np.array_equal(written, original)


def test_what_cannot_be_written_is_imported_or_asked_for():
    held = open  # a built-in of Python's is written; an open file is not
    with open(__file__) as file:
        code = source.rule(lambda: (held, file), "tx", "sgd", None)
    assert "put it here" in code
    assert "optax.sgd" in code
