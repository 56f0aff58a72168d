"""Every rule, 100 steps on 8 devices, against its float64 reference in every placement.

Several rules run in one train step, each with parameters of its own. All are given the same
gradients through a loss that is linear in them. These are multiples of 1/16, so that every order of
summation over examples and devices gives the same float32: what is left is the rule itself.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from tests.transforms import references as r
from tests.transforms.cases import RULES, SOAP, before, decayed, noisy
from trainkit import placement

STEPS, EXAMPLES, LOOK = 100, 8, 20  # looked at after every 20 steps
SHAPES = {"w": (8, 4), "v": (16,), "s": (), "z": (0,)}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5}
PLACEMENTS = {
    "single": placement.single,
    "pmap": placement.pmap,
    "shard_map": placement.shard_map,
    "jit": placement.jit,
    "fsdp": lambda: placement.fsdp(min_size=1),
}
NAMES = [*RULES, *noisy("float32")]
GROUPS = 8  # of rules that share a program


def together(rules):
    """Each rule on the branch of the tree that has its name."""

    def init(params):
        return {name: tx.init(params[name]) for name, tx in rules.items()}

    def update(updates, state, params=None, *, value_fn, **_):
        new, after = {}, {}
        for name, tx in rules.items():
            alone = functools.partial(lambda name, p: value_fn({**params, name: p}), name)
            new[name], after[name] = optax.with_extra_args_support(tx).update(
                updates[name], state[name], params[name], value_fn=alone
            )
        return new, after

    return optax.GradientTransformationExtraArgs(init, update)


def train(rules, params, loss_fn, batches, where):
    """The parameters of each rule after every LOOK steps, all in one compiled program."""
    tx = together(rules)
    step = trainkit.make_train_step(
        loss_fn, tx, placement=PLACEMENTS[where](), steps_per_call=LOOK, norms=False
    )
    state = step.place(trainkit.TrainState.create(dict.fromkeys(rules, params), tx))
    seen = []
    for i in range(0, STEPS, LOOK):
        state, _ = step(state, jax.tree.map(lambda x, i=i: x[i : i + LOOK], batches))
        seen.append(jax.device_get(state.params))
    assert step.compiles == 1
    return seen


def linear(params, model_state, batch, rng):
    total = sum(jnp.sum(batch[k] * p[k]) for p in params.values() for k in SHAPES)
    return trainkit.Loss(total, jnp.asarray(len(batch["s"]), total.dtype))


def sixteenths(rng, shape):
    return rng.integers(-32, 33, shape) / 16


def far(found, expected):
    """Relative to the larger of 1 and the parameters, as in the other tests of rules."""
    scale = max([1.0] + [np.abs(x).max(initial=0) for x in expected.values()])
    assert all(np.isfinite(x).all() for x in found.values())
    return max(np.abs(found[k] - expected[k]).max(initial=0) for k in expected) / scale


@pytest.mark.slow
@pytest.mark.parametrize("group", range(GROUPS))
@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_every_rule_in_every_placement(group, where, dtype):
    with jax.enable_x64(dtype == "float64"):
        cases = {**RULES, **noisy(dtype)}
        names = NAMES[group::GROUPS]
        rng = np.random.default_rng(0)
        params = {k: sixteenths(rng, shape) for k, shape in SHAPES.items()}
        batches = {
            k: sixteenths(rng, (STEPS, EXAMPLES, *shape)).astype(dtype)
            for k, shape in SHAPES.items()
        }
        found = train(
            {name: cases[name][0]() for name in names},
            {k: jnp.asarray(p, dtype) for k, p in params.items()},
            linear,
            batches,
            where,
        )
        gradients = [
            {k: x[i].astype(np.float64).mean(axis=0) for k, x in batches.items()}
            for i in range(STEPS)
        ]
        for name in names:
            expected = r.run(cases[name][1], params, gradients)[LOOK - 1 :: LOOK]
            worst = max(far(a[name], b) for a, b in zip(found, expected, strict=True))
            assert worst <= TOLERANCE[dtype], name


# -- rules that ask for the loss: on ½ Σ h z², z = p + p³/10, whose Hessian is diagonal -----------


def bent(params):
    return jax.tree.map(lambda p: p + p**3 / 10, params)


def curved(params, model_state, batch, rng):
    h = batch["h"]
    total = sum(
        jnp.sum(h[k] * (tt.linearised(bent) if name == "gauss-newton" else bent)(p)[k] ** 2) / 2
        for name, p in params.items()
        for k in p
    )
    return trainkit.Loss(total, jnp.asarray(len(h["s"]), total.dtype))


def follow(reference, params, slope):
    """The reference, given the gradient where it stands."""
    return r.run(reference, params, [slope] * STEPS)[LOOK - 1 :: LOOK]


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_rules_that_ask_for_the_loss(where, dtype):
    """L-BFGS by a rate: the number of a line search's trials jumps with the rounding.

    Its line search is compared over a few steps in test_second_order_in_a_step.
    """
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(1)
        shapes = {k: v for k, v in SHAPES.items() if k != "z"}
        params = {k: sixteenths(rng, shape) for k, shape in shapes.items()}
        each = {k: 1 + rng.integers(0, 33, (EXAMPLES, *v)) / 16 for k, v in shapes.items()}
        h = {k: x.mean(axis=0) for k, x in each.items()}
        slope = lambda p: r.tree(lambda h, p: h * (p + p**3 / 10) * (1 + 0.3 * p**2), h, p)
        flat = lambda p: r.tree(lambda h, p: h * (1 + 0.3 * p**2) ** 2, h, p)
        full = lambda p: r.tree(
            lambda h, p: h * ((1 + 0.3 * p**2) ** 2 + (p + p**3 / 10) * 0.6 * p), h, p
        )
        newton = lambda: tt.newton_cg(0.05, damping=0.1, tol=0.0, max_iterations=60)
        cases = {
            "newton": (newton, before(r.newton(0.1, full, params), 0.05)),
            "gauss-newton": (newton, before(r.newton(0.1, flat, params), 0.05)),
            "lbfgs": (
                lambda: tt.lbfgs(0.1, memory_size=4, linesearch=None),
                before(r.curvature.lbfgs(4, True)),
            ),
            "sophia": (
                lambda: tt.sophia(0.01, gamma=0.5, weight_decay=0.1, update_interval=3),
                decayed(r.sophia(0.5, 3, full, params), 0.01),
            ),
        }
        found = train(
            {name: make() for name, (make, _) in cases.items()},
            {k: jnp.asarray(p, dtype) for k, p in params.items()},
            curved,
            {
                "h": {
                    k: np.broadcast_to(x, (STEPS, *x.shape)).astype(dtype) for k, x in each.items()
                }
            },
            where,
        )
        for name, (_, oracle) in cases.items():
            expected = follow(oracle, params, slope)
            worst = max(far(a[name], b) for a, b in zip(found, expected, strict=True))
            assert worst <= TOLERANCE[dtype], name


@pytest.mark.slow
@pytest.mark.parametrize("where", PLACEMENTS)
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_soap(where, dtype):
    """By gradients with well separated singular values; see test_soap_in_float32 for the reason."""
    with jax.enable_x64(dtype == "float64"):
        rng = np.random.default_rng(1)
        sizes = np.diag([8.0, 4.0, 2.0, 1.0])
        each = {
            "w": np.round(16 * sizes @ rng.normal(size=(STEPS, EXAMPLES, 4, 4)) @ sizes) / 16,
            "v": sixteenths(rng, (STEPS, EXAMPLES, 16)),
        }
        params = {"w": sixteenths(rng, (4, 4)), "v": sixteenths(rng, 16)}
        tx = tt.soap(0.01, weight_decay=0.1, precondition_frequency=7)

        def loss_fn(params, model_state, batch, rng):
            total = sum(jnp.sum(batch[k] * params["soap"][k]) for k in batch)
            return trainkit.Loss(total, jnp.asarray(len(batch["v"]), total.dtype))

        found = train(
            {"soap": tx},
            {k: jnp.asarray(p, dtype) for k, p in params.items()},
            loss_fn,
            {k: x.astype(dtype) for k, x in each.items()},
            where,
        )
        gradients = [{k: x[i].mean(axis=0) for k, x in each.items()} for i in range(STEPS)]
        expected = r.run(SOAP, params, gradients)
        worst = max(
            far(a["soap"], b) for a, b in zip(found, expected[LOOK - 1 :: LOOK], strict=True)
        )
        assert worst <= TOLERANCE[dtype]


# -- what has no reference in numbers alone --------------------------------------------------------


def regression(params, model_state, batch, rng):
    x, y = batch
    error = jnp.tanh(x @ params["kernel"] + params["bias"]) - y
    return trainkit.Loss(jnp.sum(error**2), jnp.float32(x.shape[0]), model_state)


def some_batches():
    rng = np.random.default_rng(0)
    return [
        (rng.normal(size=(16, 4)).astype("f4"), rng.normal(size=(16, 8)).astype("f4"))
        for _ in range(5)
    ]


def test_quantised_moments_in_every_placement():
    tx = tt.quantise_moments(tt.adam(0.01), min_size=16)
    rng = np.random.default_rng(1)
    params = {"kernel": jnp.asarray(rng.normal(size=(4, 8)), jnp.float32), "bias": jnp.zeros(8)}
    ends = []
    for where in PLACEMENTS.values():
        step = trainkit.make_train_step(regression, tx, placement=where())
        state = step.place(trainkit.TrainState.create(params, tx))
        for batch in some_batches():
            state, _ = step(state, batch)
        ends.append(jax.device_get(state.params))
    # Another order of a sum over devices may turn a code of 8 bits into its neighbour.
    for end in ends[1:]:
        assert max(np.abs(end[k] - ends[0][k]).max() for k in params) < 2e-3


def test_names_reach_a_live_state_in_every_placement():
    tx = tt.named(adam=tt.adam(1e-2))
    params = {"kernel": jnp.ones((4, 8)), "bias": jnp.zeros(8)}
    for where in ("pmap", "shard_map", "jit", "fsdp"):
        step = trainkit.make_train_step(regression, tx, placement=where)
        state = step.place(trainkit.TrainState.create(params, tx))
        first, second = some_batches()[:2]
        state, metrics = step(state, first)
        assert float(metrics["learning_rate"]) == pytest.approx(1e-2)
        state = tt.set(state, "learning_rate", 0.0)
        before = jax.device_get(state.params)
        state, metrics = step(state, second)
        assert float(tt.get(state, "learning_rate")) == 0.0
        assert float(metrics["learning_rate"]) == 0.0
        after = jax.device_get(state.params)
        assert np.array_equal(before["kernel"], after["kernel"])
