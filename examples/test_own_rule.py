"""An update rule of one's own, and the laws that it must obey as tests.

python -m pytest examples/test_own_rule.py
"""

import jax
import jax.numpy as jnp
import optax

from trainkit import laws


def normalised_momentum(learning_rate=1e-2, beta=0.9, weight_decay=0.1):
    """Momentum of the size 1 (root mean square) in every leaf, and decoupled weight decay."""

    def init(params):
        return jnp.zeros([], jnp.int32), jax.tree.map(jnp.zeros_like, params)

    def update(grads, state, params):
        count, momentum = optax.safe_increment(state[0]), state[1]
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, momentum, grads)

        def step(m, p):
            size = jnp.sqrt(jnp.mean(jnp.square(m)))
            unit = m / jnp.where(size > 0, size, 1)
            return -learning_rate * (unit + weight_decay * p)

        return jax.tree.map(step, momentum, params), (count, momentum)

    return optax.GradientTransformation(init, update)


CLAIMS = {"degree": 0, "decoupled decay": True}


@laws.parametrize(normalised_momentum, claims=CLAIMS)
def test_law(law):
    law()
