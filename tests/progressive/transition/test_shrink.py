"""A stage that shrinks: against the selection that is made on the host, and in a run."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import trainkit
from tests.progressive import tiny
from trainkit.data import Sampler
from trainkit.growth.errors import GrowthError
from trainkit.growth.planning import plan
from trainkit.growth.views.prune import prune
from trainkit.progressive import triggers
from trainkit.progressive.stages.stage import Stage, StageError
from trainkit.progressive.transition.shrink import shrunk
from trainkit.progressive.transition.state_growth import StageModel


class Net(nn.Module):
    """Merged, split and flattened axes: what a gather may get wrong."""

    width: int
    heads: int

    @nn.compact
    def __call__(self, x):
        merged = nn.DenseGeneral((2, self.heads, 3), bias_init=nn.initializers.normal())(x)
        a, b = merged[:, 0], merged[:, 1]
        mixed = (jnp.tanh(a) * b).reshape(len(x), -1)
        h = nn.relu(nn.Dense(self.width, bias_init=nn.initializers.normal())(mixed))
        pairs = (h[:, :, None] * h[:, None, :]).reshape(len(x), -1)  # one axis twice
        return nn.Dense(3)(h) + nn.Dense(3)(pairs)


def side(module, tx, seed=0):
    model = trainkit.from_linen(
        module, optax.softmax_cross_entropy_with_integer_labels, inputs=lambda b: b["x"]
    )
    return StageModel(module, model, model.state(tx, batch(), seed))


def batch():
    data = tiny.arrays(16)
    return {name: leaf[:16] for name, leaf in data.items()}


def test_the_program_keeps_what_the_host_would_and_moments_go_along():
    tx = optax.adam(1e-2)
    big, small = side(Net(8, 4), tx), side(Net(4, 2), tx)
    state = big.state
    # Moments that say where they are from.
    mu = jax.tree.map(lambda p: 2 * p, state.params)
    nu = jax.tree.map(lambda p: p**2, state.params)
    state = state.replace(
        opt_state=(state.opt_state[0]._replace(mu=mu, nu=nu), *state.opt_state[1:])
    )
    growth = shrunk(big, small, batch(), tx=tx)
    after = jax.jit(growth.apply)(state)
    outputs = lambda s: (
        lambda p, b: s.model.apply(
            p["params"], {}, s.model.inputs(b), jax.random.key(0), train=False
        )[0]
    )
    tree = lambda s: {"params": s.params}
    found = plan(outputs(small), outputs(big), tree(small.state), tree(state), batch())
    wanted = prune(found, tree(state)).apply(tree(state))["params"]
    jax.tree.map(np.testing.assert_array_equal, after.params, wanted)
    jax.tree.map(
        lambda m, p: np.testing.assert_array_equal(m, 2 * p), after.opt_state[0].mu, wanted
    )
    jax.tree.map(lambda v, p: np.testing.assert_array_equal(v, p**2), after.opt_state[0].nu, wanted)
    assert not growth.exact


def test_slots_of_another_shape_begin_anew():
    tx = optax.adafactor(1e-2, min_dim_size_to_factor=2)
    big, small = side(Net(8, 4), tx), side(Net(4, 2), tx)
    after = jax.jit(shrunk(big, small, batch(), tx=tx).apply)(big.state)
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    assert shapes(after.opt_state) == shapes(tx.init(after.params))


def test_layers_are_not_taken_away():
    tx = optax.sgd(1e-2)
    two, one = (
        side(nn.Sequential([*(nn.Dense(4) for _ in range(n)), nn.Dense(3)]), tx) for n in (2, 1)
    )
    with pytest.raises(GrowthError, match="removes units, not layers"):
        shrunk(two, one, batch(), tx=tx)


def test_a_run_shrinks_when_it_says_so_and_is_refused_when_it_does_not():
    def run(**last):
        return trainkit.progressive.progressive(
            [Stage(Net(8, 4), triggers.steps(20)), Stage(Net(4, 2), **last)],
            lambda m: side(m, optax.adam(1e-2)).model,
            optax.adam(1e-2),
            Sampler(tiny.arrays(), 16),
            tiny.parts(tiny.arrays(64, seed=1), 16),
            steps=40,
            eval_every=10,
            progress=False,
        )

    with pytest.raises(StageError, match=r"Stage 1 shrinks.*shrink=True"):
        run()
    result = run(shrink=True)
    (event,) = tiny.events(result, "growth")
    assert event["parameters_after"] < event["parameters_before"]
    assert not event["exact"]
    assert event["certificate"]["forward_error"]["float32"] > 1e-3  # it says what was lost
    assert result.state.params["Dense_0"]["kernel"].shape == (6, 4)
    assert result.fit.steps == 40
