"""Growing an optimizer state and then stepping is stepping and then growing."""

import dataclasses
import importlib
import inspect
import sys
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit.transforms as tt
from tests.growth.catalogue import (
    OPTIMIZERS,
    copies,
    extra,
    grow_gradients,
    grow_params,
    mlp_growth,
    mlp_params,
)
from trainkit._core.paths import named_leaves
from trainkit.growth.errors import GrowthError
from trainkit.growth.maps.growth_map import MapData
from trainkit.growth.maps.leaf_map import AxisMap, LeafMap
from trainkit.growth.opt_state.grow import fold_opt_state, grow_opt_state
from trainkit.growth.opt_state.slots import Slot
from trainkit.growth.opt_state.table import OPTAX
from trainkit.growth.plan.data import Origin

N, EVEN, UNEVEN = 4, [0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 3, 0, 3]


@pytest.fixture(autouse=True)
def _mode(x64):
    # Optax itself mixes dtypes in ways that the strict mode refuses.
    with jax.numpy_dtype_promotion("standard"):
        yield


def both(name, params):
    return optax.LookaheadParams(params, params) if name == "lookahead" else params


def random_gradients(params, rng):
    # So large that every ε is below rounding: ε is what keeps a plain rule from being homogeneous.
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape) * 1e6), params)


def step(name, tx):
    return jax.jit(lambda g, s, p, t: tx.update(g, s, both(name, p), **extra(name, p, t))[1])


def is_number(leaf):
    return not jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def differing(state, other, rtol=1e-9):
    """The names of the slots in which two states differ."""
    names = []
    pairs = zip(jax.tree_util.tree_leaves_with_path(state), jax.tree.leaves(other), strict=True)
    for (path, x), y in pairs:
        if is_number(x):
            x, y = np.asarray(x, float), np.asarray(y, float)
            if x.shape != y.shape or not np.allclose(x, y, rtol, rtol * np.abs(y).max(initial=0)):
                names.append(jax.tree_util.keystr(path))
    return names


# Slots that follow no calculus, with the reason. Exact continuation holds for these rules too.
DOCUMENTED = {
    "backtracking": [".value", ".grad", ".info"],  # of the loss itself, not of the gradients here
    "zoom": [".learning_rate", ".value", ".grad", ".info"],  # likewise
    "clipped": [".mu", ".nu"],  # the global norm is not invariant, which the certificate warns of
    "named": [".mu", ".nu"],  # clipping by value is not homogeneous
    "dadapt": [".numerator_weighted"],  # one number for all leaves, an estimate that goes on
    "dog": [".sum_sq_norm_grads"],  # likewise
    "dowg": [".weighted_sq_norm_grads"],  # likewise
    "monitor": [".measurement", ".measure_states"],  # rewritten at every update
    "schedule_free": [".z"],  # moved by the plain learning rate, like the parameters themselves
}
SOME = ["adafactor", "adafactor_momentum", "adamax", "frozen", "lars", "sm3"]


@pytest.mark.parametrize(
    "name",
    [n if n in SOME else pytest.param(n, marks=pytest.mark.slow) for n in sorted(OPTIMIZERS)],
)
def test_growth_commutes_with_stepping(name):
    growth, rng = mlp_growth(EVEN), np.random.default_rng(3)
    tx, small = OPTIMIZERS[name](), mlp_params(N)
    big = grow_params(small, growth)
    update = step(name, tx)
    state = tx.init(both(name, small))
    for t in range(4):
        state = update(random_gradients(small, rng), state, small, float(t))
    grow = lambda s: grow_opt_state(tx, s, growth, both(name, small), both(name, big))
    grown, grads = grow(state), random_gradients(small, rng)
    stepped = update(grow_gradients(grads, growth), grown, big, 4.0)
    expected = grow(update(grads, state, small, 4.0))
    bad = differing(stepped, expected)
    assert [b for b in bad if not any(d in b for d in DOCUMENTED.get(name, []))] == []
    # And every slot has the shape that a fresh state has.
    fresh = jax.eval_shape(tx.init, both(name, big))
    if name != "monitor":  # its state changes its structure at the first update
        assert jax.tree.map(jnp.shape, grown) == jax.tree.map(lambda s: s.shape, fresh)
        # Folding it back loses nothing.
        folded = fold_opt_state(tx, grown, growth, both(name, small), both(name, big))
        assert differing(folded, state) == []


@pytest.mark.parametrize("name", ["cocob", "dog", "lbfgs", "madgrad", "rprop"])
def test_the_table_speaks_where_nothing_is_measured(name):
    """Of one matrix, whose rows are read by copies, and whose columns are copies."""
    write, read = copies(EVEN, "even")
    growth, tx = MapData({"w": LeafMap((read, write))}), OPTIMIZERS[name]()
    rng = np.random.default_rng(3)
    draw = lambda: {"w": jnp.asarray(rng.normal(size=(4, 4)))}
    before, small = draw(), draw()
    big, update = grow_params(small, growth), step(name, tx)
    grow = lambda s: grow_opt_state(tx, s, growth, small, big, degrees={})
    state = tx.init(before)
    for t in range(2):
        state = update(random_gradients(small, rng), state, small, float(t))
    grads = random_gradients(small, rng)
    stepped = update(grow_gradients(grads, growth), grow(state), big, 2.0)
    expected = grow(update(grads, state, small, 2.0))
    bad = differing(stepped, expected)
    assert [b for b in bad if not any(d in b for d in DOCUMENTED.get(name, []))] == []


@pytest.mark.parametrize("split", ["even", "uneven"])
def test_adam_by_hand(split):
    growth = mlp_growth(UNEVEN, split)
    params = mlp_params(N)
    tx = optax.adamw(1e-3)
    state = tx.init(params)
    for t in range(3):
        _, state = tx.update(jax.tree.map(lambda x, t=t: x + t, params), state, params)
    grown = grow_opt_state(tx, state, growth, params, grow_params(params, growth))[0]
    write, read = copies(UNEVEN, split)
    f = read.gradient[:, None] * write.gradient[None, :]
    at = np.ix_(UNEVEN, UNEVEN)
    np.testing.assert_allclose(grown.mu["mid"]["w"], f * state[0].mu["mid"]["w"][at], rtol=1e-14)
    np.testing.assert_allclose(grown.nu["mid"]["w"], f**2 * state[0].nu["mid"]["w"][at], rtol=1e-14)
    assert int(grown.count) == 3
    np.testing.assert_array_equal(grown.mu["out"]["b"], state[0].mu["out"]["b"])


def test_new_units_get_zero_and_the_mean():
    axis = AxisMap(np.array([0, 1, -1, -1]), np.ones(4), np.ones(4))
    growth = MapData({"w": LeafMap((None, axis))})
    params, tx = {"w": jnp.zeros((3, 2))}, optax.adam(1e-3)
    _, state = tx.update({"w": jnp.arange(6.0).reshape(3, 2)}, tx.init(params), params)
    grown = grow_opt_state(tx, state, growth, params, {"w": jnp.zeros((3, 4))})[0]
    np.testing.assert_array_equal(grown.mu["w"][:, 2:], 0)
    row_mean = jnp.mean(state[0].nu["w"], axis=1, keepdims=True)
    np.testing.assert_allclose(grown.nu["w"][:, 2:], jnp.broadcast_to(row_mean, (3, 2)))
    np.testing.assert_allclose(grown.nu["w"][:, :2], state[0].nu["w"])


# What the slots of new units hold: 0 where it is a mean of gradients, else the mean of the old.
NEW = {
    "adamw": {"mu": 0, "nu": "mean"},
    "adamax": {"mu": 0, "nu": "mean"},
    "centred_rms": {"mu": 0, "nu": "mean", "trace": 0},
    "sm3": {"nu": 0, "w/1": "mean", "b/0": "mean"},  # a momentum, and covers along each axis
    "adafactor": {"v_row": "mean", "v_col": "mean", "v": "mean"},
    "lion": {"mu": 0},
}


@pytest.mark.parametrize("name", NEW)
def test_new_units_of_every_slot(name):
    tx, rng = OPTIMIZERS[name](), np.random.default_rng(5)
    axis = AxisMap(np.array([0, 1, 2, -1, -1]), np.ones(5), np.ones(5))
    growth = MapData({"w": LeafMap((None, axis)), "b": LeafMap((axis,))})
    params = {"w": jnp.asarray(rng.normal(size=(8, 3))), "b": jnp.asarray(rng.normal(size=3))}
    state = tx.init(params)
    for _ in range(2):
        _, state = tx.update(random_gradients(params, rng), state, params)
    big = {"w": jnp.ones((8, 5)), "b": jnp.ones(5)}
    old = named_leaves(state)
    seen = set()
    for path, x in named_leaves(grow_opt_state(tx, state, growth, params, big)).items():
        where = [d for d, n in enumerate(x.shape) if n == 5]
        if not where:
            continue
        (d,) = where
        before, new = np.split(np.asarray(x), [3], d)
        np.testing.assert_allclose(before, old[path], rtol=1e-12)
        (what,) = {part for part in NEW[name] if f"/{part}/" in f"/{path}/"}
        seen.add(what)
        held = before.mean(d, keepdims=True) if NEW[name][what] == "mean" else 0 * new
        np.testing.assert_allclose(new, np.broadcast_to(held, new.shape), rtol=1e-12)
        assert np.any(new) == (NEW[name][what] == "mean")
    assert seen <= set(NEW[name])
    assert len(seen) == len(NEW[name]) - (name == "adafactor")


def test_copies_of_the_parameters_get_the_same_noise():
    growth, params = mlp_growth(EVEN), mlp_params(N)
    tx = optax.contrib.schedule_free_sgd(0.1)
    state = tx.init(params)
    _, state = tx.update(jax.tree.map(jnp.ones_like, params), state, params)
    big = grow_params(params, growth)
    noise = jnp.asarray(np.random.default_rng(0).normal(size=big["out"]["w"].shape))
    big["out"]["w"] = big["out"]["w"] + noise
    z = grow_opt_state(tx, state, growth, params, big).z
    expected = grow_params(state.z, growth)
    np.testing.assert_allclose(z["out"]["w"], expected["out"]["w"] + noise, rtol=1e-13)
    np.testing.assert_allclose(z["mid"]["w"], expected["mid"]["w"], rtol=1e-13)


def test_copies_of_the_parameters_hold_means_where_these_do():
    """In units that copy none, behind which a norm keeps the mean of the old."""
    axis = AxisMap(np.array([0, 1, 2, -1, -1]), np.ones(5), np.ones(5))._replace(fill="mean")
    growth, params = MapData({"w": LeafMap((None, axis))}), {"w": jnp.arange(6.0).reshape(2, 3)}
    tx = optax.contrib.schedule_free_sgd(0.1)
    _, state = tx.update({"w": jnp.sin(params["w"])}, tx.init(params), params)
    z = grow_opt_state(tx, state, growth, params, grow_params(params, growth)).z
    mean = state.z["w"].mean(1, keepdims=True).repeat(2, 1)
    np.testing.assert_allclose(z["w"], np.concatenate([state.z["w"], mean], 1), rtol=1e-13)


@pytest.mark.parametrize(("before", "after"), [(4, 4), (4, 100), (100, 4), (100, 100)])
def test_adafactor_across_thresholds(before, after):
    """Factored or whole on either side: rank-one second moments survive all four ways."""
    source = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4]
    _, read = copies(source, "uneven")
    growth, params = MapData({"w": LeafMap((read, None))}), {"w": jnp.ones((5, 6))}
    big = {"w": jnp.ones((10, 6))}
    make = lambda size: optax.scale_by_factored_rms(min_dim_size_to_factor=size)
    row, col = jnp.arange(1.0, 6.0), jnp.arange(2.0, 8.0)
    # One update with a gradient of rank one makes the rank-one second moment.
    _, state = make(before).update(
        {"w": row[:, None] * col[None]}, make(before).init(params), params
    )
    # The layout before is whatever it is; growth rewrites it for the transformation after.
    grown = grow_opt_state(make(after), state, growth, params, big)
    _, fresh = make(after).update(
        grow_gradients({"w": row[:, None] * col[None]}, growth), make(after).init(big), big
    )
    assert differing(grown, fresh) == []


def test_reset():
    growth, params, tx = mlp_growth(EVEN), mlp_params(N), optax.adam(1e-3)
    big = grow_params(params, growth)
    _, state = tx.update(params, tx.init(params), params)
    fresh = grow_opt_state(tx, state, growth, params, big, reset=True)
    assert differing(fresh, tx.init(big)) == []
    some = grow_opt_state(tx, state, growth, params, big, reset=["^mid/"])[0]
    carried = grow_opt_state(tx, state, growth, params, big)[0]
    np.testing.assert_array_equal(some.mu["mid"]["w"], 0)
    np.testing.assert_allclose(some.nu["mid"]["w"], jnp.mean(carried.nu["mid"]["w"]))
    np.testing.assert_array_equal(some.nu["in"]["w"], carried.nu["in"]["w"])


def test_half_precision_moments_round_once():
    write = AxisMap(np.array([0, 0, 0]), np.ones(3), np.full(3, 1 / 3))
    tx = optax.adam(1e-3, mu_dtype=jnp.bfloat16)
    params = {"b": jnp.zeros(1, jnp.float32)}
    _, state = tx.update({"b": jnp.full(1, 0.7, jnp.float32)}, tx.init(params), params)
    big = {"b": jnp.zeros(3, jnp.float32)}
    grown = grow_opt_state(tx, state, MapData({"b": LeafMap((write,))}), params, big)[0]
    assert grown.mu["b"].dtype == jnp.bfloat16
    third = (state[0].mu["b"].astype(jnp.float32) / 3).astype(jnp.bfloat16)
    np.testing.assert_array_equal(grown.mu["b"], jnp.broadcast_to(third, 3))


def test_a_second_moment_in_half_precision_grows_in_it():
    write = AxisMap(np.array([0, 0]), np.ones(2), np.full(2, 0.5))
    tx, params = tt.adamw(1e-3, nu_dtype=jnp.bfloat16), {"b": jnp.zeros(1, jnp.float32)}
    _, state = tx.update({"b": jnp.full(1, 0.7, jnp.float32)}, tx.init(params), params)
    big = {"b": jnp.zeros(2, jnp.float32)}
    grown = grow_opt_state(tx, state, MapData({"b": LeafMap((write,))}), params, big)[0]
    assert grown.nu["b"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(grown.nu["b"], jnp.broadcast_to(state[0].nu["b"] / 4, 2))


def test_new_layers():
    """A layer without history: μ = 0, ν = its neighbour's."""
    params = {"layer_0": {"w": jnp.ones((2, 2))}}
    big = {"layer_0": {"w": jnp.ones((2, 2))}, "layer_1": {"w": jnp.ones((2, 2))}}
    tx = optax.adam(1e-3)
    _, state = tx.update({"layer_0": {"w": jnp.eye(2)}}, tx.init(params), params)
    origin = {"layer_1/w": Origin("layer_0/w", new=True)}
    grown = grow_opt_state(tx, state, MapData(origin=origin), params, big)[0]
    np.testing.assert_array_equal(grown.mu["layer_0"]["w"], state[0].mu["layer_0"]["w"])
    np.testing.assert_array_equal(grown.mu["layer_1"]["w"], 0)
    nu = np.asarray(state[0].nu["layer_0"]["w"])
    # Where the neighbour never saw a gradient, the mean: never 0 under an old count.
    wanted = np.where(nu == 0, nu.mean(), nu)
    np.testing.assert_allclose(grown.nu["layer_1"]["w"], wanted, rtol=1e-6)


class Mine(NamedTuple):
    speed: dict
    energy: dict
    shadow: dict
    age: jax.Array


@dataclasses.dataclass
class Odd:
    inner: tuple


jax.tree_util.register_dataclass(Odd, ["inner"], [])


def test_a_slot_may_have_several_entries_for_a_parameter():
    """As the two parts of a number; and the map may say that the parameter had another name."""
    halves = lambda p: jax.tree.map(lambda x: {"low": x, "high": 2 * x}, p)
    tx = optax.GradientTransformation(
        lambda p: optax.TraceState(jax.tree.map(jnp.zeros_like, halves(p))),
        lambda u, s, p=None: (u, s),
    )
    write, read = copies(EVEN, "even")
    how = LeafMap((write, read))
    growth = MapData({"new": how}, {"new": Origin("old")})
    params = {"old": jnp.arange(16.0).reshape(4, 4)}
    big = {"new": grow_params({"new": params["old"]}, growth)["new"]}
    grown = grow_opt_state(tx, optax.TraceState(halves(params)), growth, params, big).trace
    wanted = grow_gradients({"new": params["old"]}, growth)["new"]
    np.testing.assert_allclose(grown["new"]["low"], wanted, rtol=1e-14)
    np.testing.assert_allclose(grown["new"]["high"], 2 * wanted, rtol=1e-14)


def test_fields_that_a_release_of_a_class_lacks_do_not_matter():
    tx, growth, params = optax.sgd(0.1, 0.9), mlp_growth(EVEN), mlp_params(N)
    big, state = grow_params(params, growth), tx.init(params)
    slots = {optax.TraceState: {"trace": 1, "of_another_release": 2}}
    grown = grow_opt_state(tx, state, growth, params, big, slots=slots)
    assert jax.tree.map(jnp.shape, grown) == jax.tree.map(jnp.shape, tx.init(big))


def test_unknown_state_is_refused_and_can_be_described():
    zeros = lambda p: jax.tree.map(jnp.zeros_like, p)
    tx = optax.GradientTransformation(
        lambda p: Mine(zeros(p), zeros(p), p, jnp.zeros(())), lambda u, s, p=None: (u, s)
    )
    growth, params = mlp_growth(EVEN), mlp_params(N)
    big = grow_params(params, growth)
    state = Mine(params, params, params, jnp.ones(()))
    with pytest.raises(
        GrowthError, match=r"Mine is not in the table.*slots=\{Mine: \{\"speed\": 1"
    ):
        grow_opt_state(tx, state, growth, params, big)
    slots = {Mine: {"speed": 1, "energy": Slot(gradient=2), "shadow": "params", "age": "keep"}}
    grown = grow_opt_state(tx, state, growth, params, big, slots=slots)
    np.testing.assert_allclose(grown.speed["in"]["b"], grow_gradients(params, growth)["in"]["b"])
    np.testing.assert_allclose(
        grown.energy["in"]["b"], grow_gradients(params, growth)["in"]["b"] / 2, rtol=1e-14
    )
    np.testing.assert_array_equal(grown.shadow["in"]["b"], big["in"]["b"])
    partial = {Mine: {"speed": 1}}
    with pytest.raises(GrowthError, match=r"with its field\(s\) \['energy', 'shadow', 'age'\]"):
        grow_opt_state(tx, state, growth, params, big, slots=partial)
    nested = optax.GradientTransformation(lambda p: Odd((tx.init(p),)), tx.update)
    with pytest.raises(GrowthError, match=r"Odd is not in the table"):
        grow_opt_state(nested, nested.init(params), growth, params, big)
    known = {Odd: {"inner": "state"}, **slots}
    again = grow_opt_state(nested, Odd((state,)), growth, params, big, slots=known)
    assert differing(again.inner[0], grown) == []


def test_bad_input():
    growth, params, tx = mlp_growth(EVEN), mlp_params(N), optax.adam(1e-3)
    big = grow_params(params, growth)
    without = MapData({name: how for name, how in growth.leaves.items() if name != "mid/w"})
    with pytest.raises(GrowthError, match=r"slot of 'mid/w' grows to \(4, 4\), but \(8, 8\)"):
        grow_opt_state(tx, tx.init(params), without, params, big)
    with pytest.raises(GrowthError, match="Check that tx is the transformation"):
        grow_opt_state(tx, optax.sgd(0.1, 0.9).init(params), growth, params, big)
    flat = optax.flatten(tx)
    with pytest.raises(GrowthError, match="not have the tree of the parameters"):
        grow_opt_state(flat, flat.init(params), growth, params, big)


# Never stored in an optimizer state, or not a state.
NO_STATE = {
    "AggregatedUpdates",
    "Aggregator",
    "Aux",
    "BacktrackingLineSearchState",  # of the search's inner loop
    "BacktrackingLinesearchInfo",  # inside a state whose field is kept whole
    "GaLoreDimensionNumbers",
    "GradientTransformation",
    "GradientTransformationExtraArgs",
    "LookaheadParams",
    "MuonDimensionNumbers",
    "SplitRealAndImaginaryArrays",
    "ZoomLinesearchInfo",
    "ZoomLinesearchState",  # of the search's inner loop
}


def optax_state_classes():
    importlib.import_module("optax.experimental._aggregating")
    found = set()
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] != "optax":
            continue
        members = vars(module).values()
        found |= {
            c.__name__
            for c in members
            if inspect.isclass(c)
            and issubclass(c, tuple)
            and getattr(c, "_fields", ())
            and c.__module__.startswith("optax.")
        }
    return found


def test_every_state_class_of_optax_is_known():
    special = {"FactoredState", "ScaleBySM3State", "GaLoreState"}
    assert optax_state_classes() - NO_STATE == set(OPTAX) | special


def test_every_state_class_of_optax_is_tried():
    """Each class in the table occurs in the states that the tests above grow."""
    seen = set()

    def look(node):
        seen.add(type(node).__name__)
        return False

    for name, make in OPTIMIZERS.items():
        jax.tree.flatten(make().init(both(name, mlp_params(2))), is_leaf=look)
    # Optax makes these only for its own older callers, for privacy, or from per-example gradients.
    rare = {
        "AccumulateAvgUpdatesState",
        "DifferentiallyPrivateAggregateState",
        "InjectHyperparamsState",
        "PerElementMeanAndSumSqDiffGradsState",
        "PerElementMeanAndVarianceEMAState",
        "WrappedScheduleState",
    }
    assert set(OPTAX) - rare - seen == set()


def test_rare_states():
    """Those that no ordinary optimizer makes, put together by hand."""
    from optax.experimental import _aggregating as aggregating

    growth, params = mlp_growth(EVEN), mlp_params(N)
    big = grow_params(params, growth)
    count, flag = jnp.int32(2), jnp.asarray(True)
    first, square = grow_gradients(params, growth), jax.tree.map(jnp.square, params)
    second = jax.tree.map(jnp.square, first)
    for make, expected in [
        (lambda p, q: aggregating.AccumulateAvgUpdatesState(count, flag, p), (first,)),
        (
            lambda p, q: aggregating.PerElementMeanAndSumSqDiffGradsState(count, flag, p, q),
            (first, second),
        ),
        (
            lambda p, q: aggregating.PerElementMeanAndVarianceEMAState(count, count, p, q),
            (first, second),
        ),
        (
            lambda p, q: optax.InjectHyperparamsState(
                count, {"lr": count}, optax.ScaleByAdamState(count, p, q)
            ),
            (first, second),
        ),
        (lambda p, q: optax.contrib.DifferentiallyPrivateAggregateState(jax.random.key(0)), ()),
        (
            lambda p, q: optax.InjectStatefulHyperparamsState(
                count,
                {"lr": count},
                {"lr": optax.schedules._inject.WrappedScheduleState(count)},
                optax.TraceState(p),
            ),
            (first,),
        ),
    ]:
        tx = optax.GradientTransformation(
            lambda p, make=make: make(p, p), lambda u, s, p=None: (u, s)
        )
        grown = grow_opt_state(tx, make(params, square), growth, params, big, degrees={})
        trees = [
            x
            for x in jax.tree.leaves(grown, is_leaf=lambda x: isinstance(x, dict) and "mid" in x)
            if isinstance(x, dict)
        ]
        assert len(trees) == len(expected)
        for tree, wanted in zip(trees, expected, strict=True):
            assert differing(tree, wanted) == []
