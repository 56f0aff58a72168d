"""Forms in which libraries hold states and parameters: each is taken, or refused with a call."""

from typing import Any

import equinox as eqx
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx, serialization
from flax.training import train_state
from jax.sharding import PartitionSpec

from tests.growth.states import shaken
from trainkit import TrainState, growth
from trainkit._core.paths import named_leaves

X = np.random.default_rng(0).normal(size=(4, 3))
TX = optax.adam(1e-2)


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


class BoxedNet(nn.Module):
    width: int
    norm: bool = False
    boxes: Any = None

    @nn.compact
    def __call__(self, x, train=False):
        init = nn.initializers.lecun_normal()
        if self.boxes is not None:
            init = self.boxes(init, (None, "data"))
        x = nn.Dense(self.width, param_dtype=jnp.float64, kernel_init=init)(x)
        if self.norm:
            x = nn.BatchNorm(use_running_average=not train, param_dtype=jnp.float64)(x)
        return nn.Dense(2, param_dtype=jnp.float64)(nn.gelu(x))


SMALL, BIG = BoxedNet(4), BoxedNet(8)


def variables(module=SMALL):
    found = module.init(jax.random.key(0), X)
    positive = lambda path, x: jnp.abs(x) + 0.1 if "var" in str(path) else x
    return jax.tree_util.tree_map_with_path(positive, shaken(found))


def moments(params):
    return TX.update(jax.tree.map(jnp.cos, params), TX.init(params), params)[1]


def same(a, b):
    np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13)


class Averaged(train_state.TrainState):
    batch_stats: Any = None
    ema: Any = None
    key: Any = None
    epochs: int = 0
    seen: Any = None


@pytest.mark.parametrize("frozen", [False, True])
def test_flax_states(frozen):
    small, big = BoxedNet(4, norm=True), BoxedNet(8, norm=True)
    found = variables(small)
    found = flax.core.freeze(found) if frozen else found
    params, average = found["params"], jax.tree.map(lambda w: w * 1.1, found["params"])
    rest = {"batch_stats": found["batch_stats"], "ema": average, "key": jax.random.key(3)}
    state = Averaged.create(apply_fn=small.apply, params=params, tx=TX, epochs=4, **rest)
    state = state.replace(opt_state=moments(params), step=7)
    grown, way = growth.grow(state, small, big, X, tx=TX, with_map=True)
    assert isinstance(grown, Averaged)
    assert (grown.step, grown.epochs) == (7, 4)
    assert grown.apply_fn == big.apply
    assert grown.key is state.key
    for name in ("params", "ema"):
        before = small.apply({"params": getattr(state, name), "batch_stats": state.batch_stats}, X)
        after = {"params": getattr(grown, name), "batch_stats": grown.batch_stats}
        same(grown.apply_fn(after, X), before)
    assert type(grown.params) is type(params)
    stepped = grown.apply_gradients(grads=jax.tree.map(jnp.ones_like, grown.params))
    assert stepped.opt_state[0].mu["Dense_0"]["kernel"].shape == (3, 8)
    assert way.certificate(small, big, state, X, tx=TX).forward_error["float64"] < 1e-12
    wrong = state.replace(seen=jnp.ones(5))
    with pytest.raises(growth.GrowthError, match=r"grow state.replace\(seen=None\)"):
        growth.grow(wrong, small, big, X, tx=TX)
    growth.grow(wrong.replace(seen=None), small, big, X, tx=TX)


def grown_outputs(state, small=SMALL, big=BIG):
    grown = growth.grow(state, small, big, X, tx=TX)
    assert grown.opt_state[0].nu["Dense_1"]["kernel"].shape == (8, 2)
    return big.apply({"params": grown.params}, X)


@pytest.mark.parametrize("form", ["dict", "msgpack", "variables", "params"])
def test_dicts_and_bytes_are_refused_with_a_call(form):
    params = variables()["params"]
    state = train_state.TrainState.create(apply_fn=SMALL.apply, params=params, tx=TX)
    state = state.replace(opt_state=moments(params))
    given = {
        "dict": serialization.to_state_dict(state),
        "msgpack": serialization.to_bytes(state),
        "variables": {"params": params},
        "params": params,
    }[form]
    with pytest.raises(growth.GrowthError, match="not a TrainState") as caught:
        growth.grow(given, SMALL, BIG, X, tx=TX)
    line = str(caught.value).splitlines()[-1].split("pass ")[1].split(", or use")[0]
    read = serialization.msgpack_restore(given) if form == "msgpack" else None
    names = {"TrainState": TrainState, "tx": TX, "d": given, "read": read, "params": params}
    state = eval(line, names)  # the advice, as it is printed
    same(grown_outputs(state), SMALL.apply({"params": params}, X))


def layers(p, x):
    for w in p["layers"]:
        x = x + jnp.tanh(x @ w["up"]) @ w["down"]
    return x


def draw(width, depth):
    rng = np.random.default_rng(width)
    one = lambda: {"up": jnp.asarray(rng.normal(size=(3, width))),
                   "down": jnp.asarray(rng.normal(size=(width, 3)))}  # fmt: skip
    return {"layers": [one() for _ in range(depth)]}


@pytest.mark.parametrize("form", ["state dict", "orbax"])
def test_restored_trees(form, tmp_path):
    """Twelve layers: as strings, "10" comes before "2". Named tuples become dicts."""
    small, big = draw(2, 12), draw(4, 12)
    kept = {"params": small, "opt": moments(small)}
    if form == "orbax":
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "a", kept)
            checkpointer.wait_until_finished()
            restored = checkpointer.restore(tmp_path / "a")
    else:
        restored = serialization.to_state_dict(kept)
        assert isinstance(restored["params"]["layers"], dict)
    plan = growth.plan(layers, layers, small, big, X)
    grown = plan.grow(restored["params"], key=0)
    whole = serialization.from_state_dict(big, serialization.to_state_dict(grown))
    same(layers(whole, X), layers(small, X))
    state = plan.realise(0).opt_state(TX, restored["opt"], restored["params"])
    wanted = plan.realise(0).opt_state(TX, kept["opt"], small)
    assert type(state[0]) is type(wanted[0])
    found, wanted = named_leaves(state), named_leaves(wanted)
    assert found.keys() == wanted.keys()
    for name, value in found.items():
        np.testing.assert_array_equal(value, wanted[name])
    if form == "orbax":
        return
    state = TrainState.create(restored["params"], TX)
    with pytest.raises(growth.GrowthError, match=r"from_state_dict\(initial, params\)"):
        growth.grow(state, layers, layers, X, tx=TX, big_params=big)
    params = serialization.from_state_dict(draw(2, 12), restored["params"])
    growth.grow(TrainState.create(params, TX), layers, layers, X, tx=TX, big_params=big)


@pytest.mark.parametrize("boxes", [nn.with_partitioning, nn.with_logical_partitioning])
def test_boxes_around_parameters(boxes):
    small, big = BoxedNet(4, boxes=boxes), BoxedNet(8, boxes=boxes)
    boxed, wide = (m.init(jax.random.key(0), X)["params"] for m in (small, big))
    plain = nn.unbox(boxed)
    before = small.apply({"params": plain}, X)
    for params, of in ((boxed, wide), (plain, nn.unbox(wide))):
        grown = growth.grow(TrainState.create(params, TX), small, big, X, tx=TX)
        same(big.apply({"params": grown.params}, X), before)
        assert jax.tree.structure(grown.params) == jax.tree.structure(of)
    fns = [lambda p, x, m=m: m.apply({"params": p}, x) for m in (small, big)]
    plans = [growth.plan(*fns, *trees, X) for trees in ((boxed, wide), (plain, nn.unbox(wide)))]
    with pytest.raises(growth.GrowthError, match=r"make the plan from flax.linen.unbox"):
        plans[0].grow(plain, key=0)
    with pytest.raises(growth.GrowthError, match=r"pass flax.linen.unbox\(params\)"):
        plans[1].grow(boxed, key=0)
    with pytest.raises(growth.GrowthError, match=r"pass flax.linen.unbox\(…\).*of both"):
        growth.plan(*fns, plain, wide, X)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    way = plans[1].realise(0)
    stacked = jax.tree.map(lambda w: jnp.stack([w, w]), plain)
    everywhere = {
        "jit": jax.jit(lambda p: plans[1].grow(p, key=0))(plain),
        "pmap": jax.tree.map(lambda w: w[1], jax.pmap(lambda p: plans[1].grow(p, key=0))(stacked)),
        "shard_map": jax.shard_map(
            way.params, mesh=mesh, in_specs=PartitionSpec(), out_specs=PartitionSpec()
        )(plain),
    }
    for grown in everywhere.values():
        same(big.apply({"params": grown}, X), before)
    with pytest.raises(ValueError, match=r"growth_map = plan.realise\(key\) outside"):
        jax.shard_map(lambda p: plans[1].grow(p, key=0), mesh=mesh, in_specs=PartitionSpec(),
                      out_specs=PartitionSpec())(plain)  # fmt: skip
    inside = lambda fn: (
        lambda p, x: jax.shard_map(
            fn,
            mesh=mesh,
            in_specs=(PartitionSpec(), PartitionSpec("data")),
            out_specs=PartitionSpec("data"),
        )(p, x)
    )
    with pytest.raises(growth.GrowthError, match="plan with the function inside `shard_map`"):
        growth.plan(*map(inside, fns), plain, nn.unbox(wide), X)


class Module(nnx.Module):
    def __init__(self, width, rngs):
        options = {"rngs": rngs, "param_dtype": jnp.float64}
        self.first, self.last = nnx.Linear(3, width, **options), nnx.Linear(width, 2, **options)
        self.norm, self.drop = nnx.BatchNorm(width, **options), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.last(self.drop(nnx.gelu(self.norm(self.first(x)))))


def nnx_models():
    models = [Module(width, nnx.Rngs(0)) for width in (4, 8)]
    for model in models:
        model.eval()
    return models


@pytest.mark.parametrize("form", ["optimizer", "module", "state", "boxed", "streams"])
def test_nnx_objects_are_refused_with_a_call(form):
    small, big = nnx_models()
    optimizer = nnx.Optimizer(small, TX, wrt=nnx.Param)
    pure = lambda kind: nnx.to_pure_dict(nnx.state(small, kind))
    params, kinds = nnx.state(small, nnx.Param), nnx.Not(nnx.Param)
    given = {
        "optimizer": optimizer,
        "module": small,
        "state": nnx.state(small),
        "boxed": TrainState.create(params, TX, model_state=pure(nnx.BatchStat)),
        "streams": TrainState.create(pure(nnx.Param), TX, model_state=pure(kinds)),
    }[form]
    with pytest.raises(growth.GrowthError) as caught:
        growth.grow(given, small, big, X, tx=TX)
    line = str(caught.value).splitlines()[-1]
    if form in ("boxed", "streams"):
        pure = "model_state=nnx.to_pure_dict(nnx.state(small, nnx.BatchStat))"
        pure = "model_state=nnx.to_pure_dict(nnx.state(small, nnx.BatchStat))"
        assert {"boxed": "flax.nnx.to_pure_dict(state.params)", "streams": pure}[form] in line
        line = "pass TrainState.create(nnx.to_pure_dict(nnx.state(small, nnx.Param)), tx, "
        line += "model_state=nnx.to_pure_dict(nnx.state(small, nnx.BatchStat)))"
    names = {"TrainState": TrainState, "nnx": nnx, "tx": TX, "small": small, "optimizer": optimizer}
    state = eval(line.split("pass ")[1], names)  # the advice, as it is printed
    grown = growth.grow(state, small, big, X, tx=TX)
    nnx.update(big, grown.params), nnx.update(big, grown.model_state)
    same(big(X), small(X))
    assert grown.opt_state[0].mu["first"]["kernel"].shape == (3, 8)


def test_a_whole_nnx_state_with_its_random_streams():
    small, big = nnx_models()
    (graph, state), (wide, others) = nnx.split(small), nnx.split(big)
    fns = [lambda s, x, g=g: nnx.merge(g, s)(x) for g in (graph, wide)]
    plan = growth.plan(*fns, state, others, X)
    grown = plan.grow(state, key=0)
    assert isinstance(grown, nnx.State)
    same(fns[1](grown, X), small(X))
    with pytest.raises(growth.GrowthError, match="arrays in boxes"):
        plan.grow(nnx.to_pure_dict(state), key=0)


def test_sizes_that_modules_store():
    make = lambda n: eqx.nn.MLP(3, 2, n, 1, key=jax.random.key(n), dtype=jnp.float64)
    (small, rest), (big, others) = (eqx.partition(make(n), eqx.is_array) for n in (4, 8))
    fns = [lambda p, x, r=r: jax.vmap(eqx.combine(p, r))(x) for r in (rest, others)]
    plan = growth.plan(*fns, small, big, X)
    grown = plan.grow(small, key=0)
    assert jax.tree.structure(grown) == jax.tree.structure(big)
    same(fns[1](grown, X), fns[0](small, X))
    way = plan.realise(0)
    assert jax.tree.structure(way.opt_state(TX, TX.init(small))[0].mu) == jax.tree.structure(big)
    assert jax.tree.structure(plan.shrink(grown, how="merge")) == jax.tree.structure(small)
    read = growth.Plan.from_json(plan.to_json())
    with pytest.raises(growth.GrowthError, match="pass like="):
        read.grow(small, key=0)
    same(fns[1](read.grow(small, key=0, like=big), X), fns[0](small, X))
    with pytest.raises(growth.GrowthError, match=r"eqx\.partition"):
        growth.plan(lambda m, x: jax.vmap(m)(x), lambda m, x: jax.vmap(m)(x), make(4), make(8), X)
    with pytest.raises(growth.GrowthError, match="an Equinox module, whose arrays are its param"):
        growth.grow(TrainState.create(small, TX), make(4), make(8), X, tx=TX)


class Rotated(eqx.Module):
    """A static field that is an array: two structures with it can only be compared by identity."""

    up: jax.Array
    down: jax.Array
    angles: jax.Array = eqx.field(static=True)

    def __call__(self, x):
        return jnp.tanh(x * jnp.cos(self.angles) @ self.up) @ self.down


@pytest.mark.filterwarnings("ignore:A JAX array is being set as static")
def test_arrays_as_static_fields():
    draw = lambda *shape: jnp.asarray(np.random.default_rng(1).normal(size=shape))
    make = lambda n: Rotated(draw(3, n), draw(n, 2), jnp.arange(3.0))
    small, big = make(4), make(8)
    fn = lambda m, x: m(x)
    grown = growth.plan(fn, fn, small, big, X).grow(small, key=0)
    same(fn(grown, X), fn(small, X))


def test_other_trees():
    slashed = lambda n: {"net/~/a": {"w": jnp.ones((3, n))}, "net/~/b": {"w": jnp.ones((n, 2))}}
    haiku = lambda p, x: jnp.tanh(x @ p["net/~/a"]["w"]) @ p["net/~/b"]["w"]
    plan = growth.plan(haiku, haiku, slashed(4), slashed(8), X)
    same(haiku(plan.grow(slashed(4), key=0), X), haiku(slashed(4), X))
    clash = lambda n: {"a/b": jnp.ones((3, n)), "a": {"b": jnp.ones((n, 2))}}
    both = lambda p, x: jnp.tanh(x @ p["a/b"]) @ p["a"]["b"]
    with pytest.raises(growth.GrowthError, match="two leaves of small_params have the path a/b"):
        growth.plan(both, both, clash(4), clash(8), X)
    params = variables()["params"]
    fns = [lambda p, x, m=m: m.apply({"params": p}, x) for m in (SMALL, BIG)]
    plan = growth.plan(*fns, params, variables(BIG)["params"], X)
    for tree, words in (
        ({"params": params}, r"pass params\['params'\]"),
        (
            flax.traverse_util.flatten_dict(params),
            r"pass flax.traverse_util.unflatten_dict\(params\)",
        ),
        (train_state.TrainState.create(apply_fn=None, params=params, tx=TX), "pass params.params"),
    ):
        with pytest.raises(growth.GrowthError, match=words):
            plan.grow(tree, key=0)
    state = TrainState.create({"params": params}, TX)
    with pytest.raises(growth.GrowthError, match=r"pass state.params\['params'\]"):
        growth.grow(state, SMALL, BIG, X, tx=TX)
