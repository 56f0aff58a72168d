"""Deeper models: which layers are which, and what identity insertion sets to 0."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import checking, zoo
from trainkit import growth
from trainkit.growth.depth.alignment import align, order
from trainkit.growth.errors import Conflict
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.zero_analysis import nearest_zeros
from trainkit.growth.views.outputs import relative_change


@pytest.fixture(autouse=True)
def _mode(x64):
    with jax.numpy_dtype_promotion("standard"):
        yield


class Deepened(NamedTuple):
    before: checking.Small
    params: Any
    way: growth.GrowthMap
    jump: float


def deepen(name, case="deeper, identity"):
    """A model of the zoo, the deeper one's parameters, the map, and by how much outputs change."""
    before = checking.small(name, "float64")
    deep_fn, deep = before.big(case)
    way = before.plan(case).realise(how="even")
    grown = way.params(before.params, like=deep)
    outputs = jax.jit(before.fn)(before.params, *before.inputs)
    return Deepened(
        before, grown, way, relative_change(outputs, jax.jit(deep_fn)(grown, *before.inputs))
    )


def test_prenorm_transformer():
    result = deepen("rotary transformer")
    assert result.jump == 0.0
    new = [i for i in range(5) if result.way.origin[f"layers/{i}/q"].new]
    assert len(new) == 3
    # The two projections into the residual stream, of the new blocks alone.
    assert set(result.way.zeroed) == {f"layers/{i}/{n}" for i in new for n in ("o", "down")}
    assert all(np.any(result.params["layers"][i]["q"]) for i in new)
    # Not dead: after one step the gradient reaches every leaf of the new blocks.
    fn, inputs = result.before.fn, result.before.inputs
    slope = jax.jit(jax.grad(lambda p: jnp.sum(jnp.sin(fn(p, *inputs)))))
    stepped = jax.tree.map(lambda p, g: p - 0.1 * g, result.params, slope(result.params))
    again = slope(stepped)
    assert all(np.any(g) for i in new for g in again["layers"][i].values())


@pytest.mark.parametrize(
    ("how", "layers"),
    [
        ("stack", [0, 1, 0, 1]),
        ("interpose", [0, 0, 1, 1]),
        ("last", [0, 1, 1, 1]),
        ("middle", [0, 1, 0, 1]),
    ],
)
def test_copies(how, layers):
    result = deepen("post-norm with a head", f"deeper, {how}")
    old = result.before.params["blocks"]
    for block, source in zip(result.params["blocks"], layers, strict=True):
        jax.tree.map(np.testing.assert_array_equal, block, old[source])
    assert result.jump > 1e-3
    kept = [i for i in range(4) if not result.way.origin[f"blocks/{i}/up"].new]
    assert [layers[i] for i in kept] == [0, 1]


def layers_apart(model, case):
    """Whether each layer has leaves of its own, and nothing but their number changes."""
    (_, before), (_, after) = model.at(), model.big(case)
    apart = jax.tree.structure(before) != jax.tree.structure(after)
    return apart and model.grown[model.cases[case].variant].keys() == {"depth"}


@pytest.mark.parametrize("how", ["stack", "interpose"])
def test_every_copy_is_that_of_its_origin(how):
    cases = [
        (name, f"deeper, {how}")
        for name, model in zoo.models(family="perceptron", front_end="functions", how=how).items()
        if "deeper" in model.grown and f"deeper, {how}" not in model.refused
    ]
    cases = [(name, case) for name, case in cases if layers_apart(zoo.REGISTRY[name], case)]
    assert len(cases) > 5
    for name, case in cases:
        before = checking.small(name, "float64")
        way = before.plan(case).realise(how="even")
        old, new = (checking.names(p) for p in (before.params, way.params(before.params)))
        assert way.new, name
        for path in way.new:
            np.testing.assert_array_equal(new[path], old[way.origin[path].leaf], name)


def test_order_of_every_size():
    for n in range(1, 6):
        for m in range(n, 13):
            for how in ("identity", "stack", "interpose", "middle", "last"):
                rows = order(n, m, how)
                assert len(rows) == m
                # Every old layer stays, once, and in its order.
                assert [s for s, new in rows if not new] == list(range(n))


@pytest.mark.parametrize(("name", "last"), [("one relu layer", 1), ("relu layers", 2)])
def test_plain_relu_mlp(name, last):
    """Also where the shallow model has no layer of the new one's shape."""
    result = deepen(name)
    assert result.jump == 0.0
    np.testing.assert_array_equal(
        result.params["Dense_4"]["kernel"], result.before.params[f"Dense_{last}"]["kernel"]
    )


def test_residual_block_with_batch_norm():
    """The running statistics are copied, not set to 0; scale and bias of the last norm are 0."""
    result = deepen("residual, batch norm")
    (new,) = [i for i in range(3) if result.way.origin[f"blocks/{i}/conv1"].new]
    assert set(result.way.zeroed) == {f"blocks/{new}/norm2/scale", f"blocks/{new}/norm2/bias"}
    assert np.any(result.params["blocks"][new]["norm2"]["mean"])


def test_a_gate_behind_a_norm_is_0():
    result = deepen("post-norm with a gate")
    assert result.way.zeroed == ("block1/gate",)
    assert result.jump == 0.0


@pytest.mark.parametrize("how", ["identity", "stack", "interpose"])
def test_layers_under_a_scan(how):
    tx = optax.adam(1e-2)
    result = deepen("under a scan", f"deeper, {how}")
    params = result.before.params
    rows = {"identity": [0, 0, 1, 1], "interpose": [0, 0, 1, 1], "stack": [0, 1, 0, 1]}[how]
    new = {"identity": [1, 3], "interpose": [1, 3], "stack": [2, 3]}[how]
    up = params["layers"]["up"]
    np.testing.assert_array_equal(result.params["layers"]["up"], up[np.array(rows)])
    if how == "identity":
        assert result.jump == 0.0
        assert set(result.way.zeroed) == {"layers/down", "layers/b2"}
        assert not np.any(result.params["layers"]["down"][np.array(new)])
    _, state = tx.update(params, tx.init(params), params)
    grown = result.way.opt_state(tx, state, params, result.params)[0]
    old = [i for i in range(4) if i not in new]
    np.testing.assert_array_equal(
        grown.mu["layers"]["up"][np.array(old)], state[0].mu["layers"]["up"]
    )
    np.testing.assert_array_equal(grown.mu["layers"]["up"][np.array(new)], 0)
    mean = state[0].nu["layers"]["up"].mean(0)
    for i in new:
        np.testing.assert_allclose(grown.nu["layers"]["up"][i], mean)


def test_masks_are_no_residual_stream():
    """Scores plus a mask is an addition too, but zeroing the query is not what is wanted."""

    def fn(p, x):
        scores = (x @ p["q"]) @ (x @ p["k"]).T + jnp.where(jnp.eye(6) > 0, 0.0, -1.0)
        return x + jax.nn.softmax(scores) @ (x @ p["v"]) @ p["o"]

    p = {name: jnp.ones((3, 3)) for name in "qkvo"}
    program = Folder().flatten(jax.make_jaxpr(fn)(p, jnp.ones((6, 3))))
    assert [sorted(p)[i] for i in nearest_zeros(program, range(4))] == ["o"]


def test_bad_trees():
    a = {"block0/w": (2, 2), "out/w": (2, 1)}
    for small, big, how, why in [
        (a, {"block0/w": (2, 2), "block1/w": (2, 2)}, "identity", "no 'out/w'"),
        (a, {**a, "extra/w": (2, 2, 2)}, "stack", "'extra/w' is new"),
        ({**a, "block1/w": (2, 2)}, a, "identity", "only adds layers"),
        (
            a,
            {"block0/w": (4, 4), "block1/w": (4, 4), "out/w": (2, 1)},
            "identity",
            "no counterpart in the deeper one",
        ),
    ]:
        conflict = align(small, big, how)
        assert isinstance(conflict, Conflict)
        assert (conflict.kind, why in conflict.why) == ("layers", True)
    with pytest.raises(ValueError, match="choose one of identity, stack"):
        align(a, {**a, "block1/w": (2, 2)}, "twice")
    assert relative_change(jnp.ones(3), jnp.ones(3)) == 0.0


@pytest.mark.parametrize("how", ["stack", "last"])
def test_copies_with_width_where_more_differs_than_layers(how):
    """Without its new layers the big model must be the small one, so that widths can be proved."""

    def fn(p, x):
        h = x @ p["in"]
        h = jnp.sin(h) if len(p["layers"]) > 2 else h
        for layer in p["layers"]:
            h = h + jnp.tanh(h @ layer["up"]) @ layer["down"]
        return h @ p["out"]

    def sizes(depth, hidden):
        layer = {"up": jnp.ones((4, hidden)), "down": jnp.ones((hidden, 4))}
        return {"in": jnp.ones((3, 4)), "layers": [layer] * depth, "out": jnp.ones((4, 2))}

    with pytest.raises(growth.GrowthError, match="width and depth grow together") as refused:
        growth.plan(fn, fn, sizes(2, 5), sizes(4, 10), jnp.ones((2, 3)), how=how)
    assert refused.value.hint == "grow in two steps: first width, then depth"
