"""New inputs: more channels, features, symbols and conditioning, at the end or interleaved.

Every case is in float64 with random biases and scales. The big model is compared with the small one
on inputs whose new entries are random.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from tests.growth.zoo.building import randomised
from trainkit import TrainState, growth

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 3))
IMAGES = RNG.normal(size=(2, 6, 6, 3))
TOKENS = RNG.integers(0, 5, (2, 6))
GOAL = RNG.normal(size=(4, 2))
PLACES = {"end": (0, 1, 2), "interleaved": (0, 2, 4), "another order": (4, 0, 2)}
NAMES = (7, 0, 3, 4, 1)  # the new numbers of five symbols, of eight


def draw(**shapes):
    return {name: jnp.asarray(RNG.normal(size=shape)) for name, shape in shapes.items()}


def check(fn, sizes, inputs, new, results=None, how="uneven", small_fn=None, **options):
    """Plans, grows, and compares on widened inputs; returns the plan and both parameters."""
    small_fn = small_fn or fn
    small, big = (draw(**{name: shape[i] for name, shape in sizes.items()}) for i in (0, 1))
    plan = growth.plan(small_fn, fn, small, big, *inputs, inputs=new, **options)
    assert growth.Plan.from_json(plan.to_json()) == plan
    grown = plan.grow(small, key=0, how=how)
    for seed in (1, 2):  # whatever the new entries hold
        wide = plan.new_inputs(*inputs, key=seed)
        a, b = small_fn(small, *inputs), fn(grown, *wide)
        b = b if results is None else jnp.take(b, jnp.asarray(results), -1)
        assert jnp.abs(a - b).max() < 1e-12 * jnp.abs(a).max()
    return plan, small, grown


def dense_features(p, x):
    return jnp.tanh(x @ p["in"] + p["b"]) @ p["out"]


DENSE = {"in": ((3, 5), (5, 7)), "b": ((5,), (7,)), "out": ((5, 2), (7, 2))}


@pytest.mark.parametrize("places", PLACES)
def test_dense_features(places):
    at = PLACES[places]
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", -1): at})
    plan, _, grown = check(dense_features, DENSE, (X,), new)
    (wide,) = plan.new_inputs(X)
    assert (np.asarray(wide)[:, at] == X).all()
    rest = [i for i in range(5) if i not in at]
    assert not grown["in"][jnp.asarray(rest)].any()
    assert np.unique(wide[:, rest]).size == 8  # the new entries are not 0


def test_without_a_map_old_features_come_first():
    plan, _, grown = check(dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 5))))
    assert not grown["in"][3:].any()
    assert (plan.new_inputs(X)[0][:, :3] == X).all()


@pytest.mark.parametrize("places", PLACES)
def test_channels(places):
    def conv(p, x):
        layout = ("NHWC", "HWIO", "NHWC")
        y = jax.lax.conv_general_dilated(x, p["k"], (2, 2), "SAME", dimension_numbers=layout)
        return jax.nn.relu(y + p["b"]).mean((1, 2)) @ p["o"]

    sizes = {"k": ((3, 3, 3, 4), (3, 3, 5, 8)), "b": ((4,), (8,)), "o": ((4, 2), (8, 2))}
    new = growth.NewInputs(np.zeros((2, 6, 6, 5)), places={("0", 3): PLACES[places]})
    check(conv, sizes, (IMAGES,), new)


@pytest.mark.parametrize("rows", [(0, 1), (1, 4)])
def test_conditioning_that_is_concatenated_inside(rows):
    def net(p, batch):
        h = jnp.concatenate([batch["x"], jnp.tanh(batch["goal"]), batch["x"][:, :1]], -1)
        return jnp.tanh(h @ p["in"] + p["b"]) @ p["out"]

    sizes = {"in": ((6, 5), (9, 7)), "b": ((5,), (7,)), "out": ((5, 2), (7, 2))}
    wide = {"x": np.zeros((4, 3)), "goal": np.zeros((4, 5))}
    new = growth.NewInputs(wide, places={("0/goal", 1): rows})
    _, _, grown = check(net, sizes, ({"x": X, "goal": GOAL},), new)
    zero = np.flatnonzero(~np.any(np.asarray(grown["in"]), -1)).tolist()
    assert zero == [3 + i for i in range(5) if i not in rows]


def test_an_input_that_the_small_model_does_not_have():
    def big(p, x, goal):
        return jnp.tanh(x @ p["in"] + p["b"]) @ p["out"] + goal @ p["goal"]

    def small(p, x, goal):
        return big(p, x, goal)

    sizes = {**DENSE, "goal": ((2, 2), (4, 2))}
    new = growth.NewInputs((np.zeros((4, 5)), np.zeros((4, 4))))
    check(big, sizes, (X, GOAL), new, small_fn=small)


def tied_language(p, tokens):
    h = p["embed"][tokens] + p["pos"][: tokens.shape[1]]
    return jnp.tanh(h @ p["w"] + p["b"]) @ p["head"]


LANGUAGE = {
    "embed": ((5, 3), (8, 6)), "pos": ((6, 3), (6, 6)), "w": ((3, 4), (6, 4)), "b": ((4,), (4,)),
    "head": ((4, 5), (4, 8)),
}  # fmt: skip


def test_a_vocabulary_with_a_map():
    new = growth.NewInputs(symbols={"0": NAMES}, places={("result", -1): NAMES})
    plan, small, _ = check(tied_language, LANGUAGE, (TOKENS,), new, results=NAMES)
    (wide,) = plan.new_inputs(TOKENS)
    assert (wide == np.asarray(NAMES)[TOKENS]).all()
    assert wide.dtype == TOKENS.dtype
    tx = optax.adamw(1e-2)
    found = plan.realise(0).certificate(tied_language, tied_language, small, TOKENS, tx=tx)
    assert found.forward_error["float64"] < 1e-12
    assert found.gradient_residual < 1e-12


def test_a_tied_vocabulary_has_its_logits_in_the_same_places():
    def tied(p, tokens):
        return (jnp.take(p["embed"], tokens, axis=0) @ p["w"]) @ p["embed"].T

    sizes = {"embed": ((5, 3), (8, 3)), "w": ((3, 3), (3, 3))}
    check(tied, sizes, (TOKENS,), growth.NewInputs(symbols={"0": NAMES}), results=NAMES)


@pytest.mark.parametrize(
    "use",
    [
        lambda p, t: jax.nn.one_hot(t, p["embed"].shape[0]) @ p["embed"],
        lambda p, t: jnp.where((t != 0)[..., None], p["embed"][t], 0.0),
        lambda p, t: jnp.where((t == t[:, :1])[..., None], p["embed"][t], 1.0),
        lambda p, t: jax.vmap(jax.vmap(lambda i: p["embed"][i]))(t),
        lambda p, t: p["embed"][jnp.concatenate([t[:, 1:], t[:, :1]], 1)],
        lambda p, t: p["embed"][jnp.clip(t, 0, p["embed"].shape[0] + 9)],
    ],
    ids=["one-hot", "padding", "compared", "vmap", "moved", "clipped"],
)
def test_uses_of_symbols(use):
    sizes = {"embed": ((5, 3), (8, 3)), "w": ((3, 2), (3, 2))}
    new = growth.NewInputs(symbols={"0": (0, 7, 3, 4, 1)})
    check(lambda p, t: jnp.tanh(use(p, t)) @ p["w"], sizes, (TOKENS,), new)


def test_results_that_are_inputs_too_keep_the_places_of_the_input():
    fn = lambda p, x: x + jnp.tanh(x @ p["in"] + p["b"]) @ p["out"]
    sizes = {**DENSE, "out": ((5, 3), (7, 5))}
    at = PLACES["another order"]
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", 1): at})
    plan, small, _ = check(fn, sizes, (X,), new, results=at)
    found = plan.realise(0).certificate(fn, fn, small, X, tx=optax.sgd(0.1))
    assert found.forward_error["float64"] < 1e-12


def test_new_entries_that_are_0_leave_their_weights_free():
    new = growth.NewInputs(np.zeros((4, 5)), new="zero")
    plan, _, grown = check(dense_features, DENSE, (X,), new)
    assert grown["in"][3:].any()
    assert not plan.new_inputs(X)[0][:, 3:].any()


def test_new_inputs_and_new_layers_at_once():
    def net(p, x):
        h = x @ p["in"]
        for layer in p["layers"]:
            h = h + jnp.tanh(h @ layer["up"] + layer["b"]) @ layer["down"]
        return h @ p["out"]

    def of(inputs, hidden, depth):
        layers = [draw(up=(4, hidden), b=(hidden,), down=(hidden, 4)) for _ in range(depth)]
        return {**draw(out=(4, 2), **{"in": (inputs, 4)}), "layers": layers}

    small, new = of(3, 5, 2), growth.NewInputs(np.zeros((4, 5)), places={("0", 1): (1, 2, 4)})
    plan = growth.plan(net, net, small, of(5, 10, 3), X, inputs=new)
    grown = plan.grow(small, key=0)
    assert plan.depth == "identity"
    assert jnp.abs(net(grown, *plan.new_inputs(X)) - net(small, X)).max() < 1e-12


def test_activations_of_new_inputs_and_a_picture(tmp_path):
    at = PLACES["interleaved"]
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", 1): at})
    plan, _, grown = check(dense_features, DENSE, (X,), new)
    (wide,) = plan.new_inputs(X)
    seen = growth.activations(plan, dense_features, dense_features, grown, wide)
    (number,) = (i for i, axis in enumerate(plan.grown_axes) if axis.layout == at)
    squares = np.square(np.asarray(wide)).mean(0)
    assert np.allclose(seen[number], squares / squares.mean())
    plan.draw(path=tmp_path / "plan.png")
    assert "places 0 2 4" in str(plan)
    assert "old unit i is at place i" in plan.explain("in")
    small = draw(**{name: shape[0] for name, shape in DENSE.items()})
    back = plan.shrink(plan.grow(small, how="even"), how="merge")
    assert all(np.allclose(back[name], small[name]) for name in back)


def test_a_table_of_symbols_has_no_activations():
    new = growth.NewInputs(symbols={"0": NAMES}, places={("result", -1): NAMES})
    plan, _, grown = check(tied_language, LANGUAGE, (TOKENS,), new, results=NAMES)
    with pytest.raises(growth.GrowthError, match="no activation is contracted over this axis"):
        growth.activations(plan, tied_language, tied_language, grown, *plan.new_inputs(TOKENS))


# -- parts of an axis ---------------------------------------------------------------------------


def test_a_map_of_an_axis_that_is_split_or_reshaped_in_the_model():
    def split(p, x):
        return jnp.tanh(x[:, :-2] @ p["w"]) + x[:, -2:] @ p["v"]

    x, sizes = RNG.normal(size=(4, 5)), {"w": ((3, 4), (5, 4)), "v": ((2, 4), (2, 4))}
    wide = np.zeros((4, 7))
    check(split, sizes, (x,), growth.NewInputs(wide, places={("0", 1): (0, 3, 2, 5, 6)}))
    with pytest.raises(growth.GrowthError, match=r"such as \(0, 1, 2, 5, 6\)"):
        check(split, sizes, (x,), growth.NewInputs(wide))

    def reshaped(p, x):
        return jnp.einsum("btc,cd->bd", jnp.tanh(x.reshape(len(x), 3, -1)), p["w"])

    x, sizes, wide = RNG.normal(size=(4, 6)), {"w": ((2, 4), (3, 4))}, np.zeros((4, 9))
    check(reshaped, sizes, (x,), growth.NewInputs(wide, places={("0", 1): (0, 2, 3, 5, 6, 8)}))
    with pytest.raises(growth.GrowthError, match=r"such as \(0, 1, 3, 4, 6, 7\)"):
        check(reshaped, sizes, (x,), growth.NewInputs(wide))


# -- training states ----------------------------------------------------------------------------


DOUBLE = {"param_dtype": float, "force_float32_reductions": False}


class ImageNet(nn.Module):
    width: int
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        x = nn.LayerNorm(**DOUBLE)(x) if self.norm else x
        x = nn.Conv(self.width, (3, 3), param_dtype=float)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=True, **DOUBLE)(x))
        return nn.Dense(2, param_dtype=float)(x.mean((1, 2)))


def trained(tx):
    """A state of the small model after two steps."""
    variables = randomised(jax.eval_shape(ImageNet(4).init, jax.random.key(0), IMAGES))
    variables["batch_stats"] = jax.tree.map(jnp.abs, variables["batch_stats"])
    kept = {"batch_stats": variables["batch_stats"]}
    state = TrainState.create(variables["params"], tx, model_state=kept)
    return steps(state, ImageNet(4), IMAGES, tx, 2)


def steps(state, net, x, tx, count):
    def loss(params):
        return jnp.square(net.apply({"params": params, **state.model_state}, x)).mean()

    for _ in range(count):
        gradients = jax.grad(loss)(state.params)
        with jax.numpy_dtype_promotion("standard"):
            updates, moments = tx.update(gradients, state.opt_state, state.params)
        state = state.replace(params=optax.apply_updates(state.params, updates), opt_state=moments)
    return state


def test_a_training_state_follows_the_small_one():
    tx, at = optax.adamw(1e-2), (0, 3, 1)
    new = growth.NewInputs(np.zeros((2, 6, 6, 5)), places={("0", -1): at})
    state = trained(tx)
    grown, found = growth.grow(
        state, ImageNet(4), ImageNet(8), IMAGES, tx=tx, inputs=new, how="even", with_map=True
    )
    (wide,) = growth.Plan.of(found.plan).new_inputs(IMAGES)
    before, after = (
        net.apply({"params": s.params, **s.model_state}, x)
        for net, s, x in ((ImageNet(4), state, IMAGES), (ImageNet(8), grown, wide))
    )
    assert jnp.abs(after - before).max() < 1e-12
    old, moved = (s.opt_state[0].mu["Conv_0"]["kernel"] for s in (state, grown))
    # Each unit has two copies that share its gradient.
    assert np.allclose(moved[:, :, jnp.asarray(at), ::2] * 2, old, atol=1e-15)
    assert not moved[:, :, jnp.asarray([2, 4])].any()
    exact = found.under("params").exact(tx)
    state, grown = (
        steps(state, ImageNet(4), IMAGES, tx, 5),
        steps(grown, ImageNet(8), wide, exact, 5),
    )
    before, after = (
        net.apply({"params": s.params, **s.model_state}, x)
        for net, s, x in ((ImageNet(4), state, IMAGES), (ImageNet(8), grown, wide))
    )
    assert jnp.abs(after - before).max() < 1e-12
    certificate = found.certificate(ImageNet(4), ImageNet(8), state, IMAGES, tx=tx)
    assert certificate.forward_error["float64"] < 1e-12


def test_an_nnx_module():
    class Small(nnx.Module):
        def __init__(self, inputs, width, rngs):
            self.a = nnx.Linear(inputs, width, rngs=rngs, param_dtype=float)
            self.b = nnx.Linear(width, 2, rngs=rngs, param_dtype=float)

        def __call__(self, x):
            return self.b(nnx.silu(self.a(x)))

    small, tx = Small(3, 4, nnx.Rngs(0)), optax.sgd(1e-2, momentum=0.9)
    params = randomised(nnx.to_pure_dict(nnx.state(small, nnx.Param)))
    state = TrainState.create(params, tx)
    big = lambda: Small(5, 6, nnx.Rngs(0))
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", -1): PLACES["interleaved"]})
    grown, found = growth.grow(state, small, big, X, tx=tx, inputs=new, with_map=True)
    assert grown.params["a"]["kernel"].shape == (5, 6)
    assert not grown.params["a"]["kernel"][jnp.asarray([1, 3])].any()
    certificate = found.certificate(small, big, state, X, tx=tx)
    assert certificate.forward_error["float64"] < 1e-12


# -- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("new", ["any", "zero"])
@pytest.mark.parametrize("size", [5, 6])
def test_a_norm_over_all_inputs_is_refused(new, size):
    """New entries are in its mean and its variance, so the old ones would change."""
    wide = growth.NewInputs(np.zeros((2, 6, 6, size)), new=new)
    tx = optax.sgd(1e-2)
    state = TrainState.create(
        (v := ImageNet(4, True).init(jax.random.key(0), IMAGES))["params"], tx,
        model_state={"batch_stats": v["batch_stats"]},
    )  # fmt: skip
    with pytest.raises(growth.GrowthError, match="depends on all entries of an input"):
        growth.grow(state, ImageNet(4, True), ImageNet(8, True), IMAGES, tx=tx, inputs=wide)


STATISTICS = {
    "rsqrt": lambda v: jax.lax.rsqrt(v + 1e-6),
    "a division": lambda v: 1.0 / jnp.sqrt(2.0 * v + 1e-6),
    "rsqrt alone": lambda v: jax.lax.rsqrt(v),
    "bounded": lambda v: 1.0 / (jnp.maximum(v, 0.0) + 1e-6),
}


def standardised(scale):
    return lambda p, x: jnp.tanh((x - p["mean"]) * scale(p["var"]) * p["g"]) @ p["w"]


def statistics(size):
    var = jnp.asarray(RNG.uniform(0.5, 2.0, size))
    return {**draw(mean=(size,), g=(size,), w=(size, 2)), "var": var}


@pytest.mark.parametrize("scale", STATISTICS)
@pytest.mark.parametrize("places", PLACES)
def test_statistics_of_each_input(scale, places):
    """Where a root is taken, new variances hold the mean of the old ones, which is positive."""
    fn, small = standardised(STATISTICS[scale]), statistics(3)
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", -1): PLACES[places]})
    plan = growth.plan(fn, fn, small, statistics(5), X, inputs=new)
    grown, wide = plan.grow(small, key=0), plan.new_inputs(X)
    assert jnp.abs(fn(grown, *wide) - fn(small, X)).max() < 1e-12
    rest = [i for i in range(5) if i not in PLACES[places]]
    assert np.allclose(grown["var"][jnp.asarray(rest)], small["var"].mean())


@pytest.mark.parametrize(
    "scale",
    [
        lambda v: 1.0 / (v + 1e-6),  # of old values of both signs, the mean may be 0
        lambda v: jax.lax.rsqrt(jax.lax.rsqrt(v) - 0.1),
        lambda v: jax.lax.rsqrt(v * v - 0.1),
        lambda v: jax.lax.rsqrt(jnp.cumsum(v)),
    ],
)
def test_statistics_that_may_be_out_of_bounds_are_refused(scale):
    fn = standardised(scale)
    new = growth.NewInputs(np.zeros((4, 5)))
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, statistics(3), statistics(5), X, inputs=new)


def test_a_batch_norm_over_inputs():
    """In evaluation, in training, and in what training does to the running statistics."""

    class Normed(nn.Module):
        width: int
        train: bool = False

        @nn.compact
        def __call__(self, x):
            x = nn.BatchNorm(use_running_average=not self.train, **DOUBLE)(x)
            x = nn.relu(nn.Dense(self.width, param_dtype=float)(x))
            return nn.Dense(2, param_dtype=float)(x)

    small, big = (
        jax.eval_shape(Normed(n).init, jax.random.key(0), np.zeros((4, k)))
        for n, k in ((4, 3), (8, 5))
    )
    small = jax.tree.map(jnp.abs, randomised(small))
    at = PLACES["interleaved"]
    new = growth.NewInputs(np.zeros((4, 5)), places={("0", -1): at})
    plan = growth.plan(Normed(4).apply, Normed(8).apply, small, big, X, inputs=new)
    grown, (wide,) = plan.grow(small, key=0), plan.new_inputs(X)
    for train in (False, True):
        run = lambda n, v, x, train=train: Normed(n, train).apply(v, x, mutable=["batch_stats"])
        before, after = run(4, small, X), run(8, grown, wide)
        assert jnp.abs(after[0] - before[0]).max() < 1e-12
        for a, b in zip(jax.tree.leaves(before[1]), jax.tree.leaves(after[1]), strict=True):
            assert np.allclose(b[jnp.asarray(at)], a, atol=1e-14)


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ({("0", -1): (0, 1, 1)}, "not injective: old entries 1 and 2 go to 1"),
        ({("0", -1): (0, 1, 5)}, "place 5, but axis 1 of input 0 has the new indices 0 to 4"),
        ({("0", -1): (0, -1, 2)}, "place -1"),
        ({("0", -1): (0, 1)}, "has 2 places, but axis 1 of input 0 has 3 old entries"),
        ({("0", 2): (0, 1, 2)}, "input 0 has 2 axes"),
        ({("0", 0): (1, 0, 2, 3)}, "has 4 entries in both models"),
        ({("0", 1): (0, 1, 2), ("0", -1): (0, 1, 3)}, "two maps"),
        ({("x", 1): (0, 1, 2)}, "names the input 'x'. The inputs are '0'"),
        ({("results", 1): (0, 1)}, "names 'results'. The results are 'result'"),
    ],
)
def test_wrong_maps(places, words):
    with pytest.raises(ValueError, match=words):
        check(dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 5)), places=places))


@pytest.mark.parametrize(
    ("symbols", "words"),
    [
        ((0, 7, 3, 4), "among 5 → 8 rows, and NewInputs.symbols gives new numbers 0 to 7 to 4"),
        ((0, 7, 3, 4, 8), "below 8"),
        ((0, 7, 3, 4, 4), "not injective"),
    ],
)
def test_wrong_symbols(symbols, words):
    with pytest.raises(ValueError, match=words):
        check(tied_language, LANGUAGE, (TOKENS,), growth.NewInputs(symbols={"0": symbols}))


def test_wrong_arguments():
    for wrong, words in (
        ({"places": [0, 1, 2]}, "must be a mapping"),
        ({"places": {"0": (0, 1, 2)}}, "name of an input, axis"),
        ({"places": {("0", 1): (0.5, 1, 2)}}, "whole numbers"),
        ({"symbols": {"0": "abc"}}, "whole numbers"),
    ):
        with pytest.raises(TypeError, match=words):
            growth.NewInputs(np.zeros((4, 5)), **wrong)
    with pytest.raises(ValueError, match="negative"):
        growth.NewInputs(symbols={"0": (-1, 1)})
    with pytest.raises(ValueError, match="new must be"):
        growth.NewInputs(new="ones")
    with pytest.raises(TypeError, match=r"growth.NewInputs\(example\)"):
        check(dense_features, DENSE, (X,), np.zeros((4, 5)))
    with pytest.raises(growth.GrowthError, match="would shrink"):
        check(dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 2))))
    with pytest.raises(growth.GrowthError, match="called with 0"):
        check(dense_features, DENSE, (X,), growth.NewInputs((np.zeros((4, 5)), X)))
    with pytest.raises(growth.GrowthError, match="one dtype"):
        check(dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 5), np.float32)))
    small = draw(**{name: shape[0] for name, shape in DENSE.items()})
    with pytest.raises(growth.GrowthError, match="new inputs need a proof"):
        growth.plan(
            dense_features,
            lambda p, x: dense_features(p, x[:, :3]),
            small,
            small,
            X,
            inputs=growth.NewInputs(np.zeros((4, 5))),
            how="experts",
        )
    with pytest.raises(ValueError, match="maps whole numbers"):
        check(
            dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 5)), symbols={"0": (0, 1)})
        )
    plan, *_ = check(dense_features, DENSE, (X,), growth.NewInputs(np.zeros((4, 5))))
    with pytest.raises(growth.GrowthError, match="the plan was made for 3"):
        plan.new_inputs(np.zeros((4, 5)))
