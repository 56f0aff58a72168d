"""Multipliers of the maximal-update parametrisation against the paper's table 3."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from tests.growth import zoo
from trainkit import growth

f32 = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)


MODEL = zoo.REGISTRY["two hidden layers, relu"]
mlp, _ = MODEL.at()


def mlp_shapes(n):
    return MODEL.at(n=n)[1]


def mlp_mup(n, m):
    return growth.plan(mlp, mlp, mlp_shapes(n), mlp_shapes(m), f32(5, 3)).mup()


def test_table_3_on_an_mlp():
    found = mlp_mup(8, 32).leaves
    hidden, inputs, output = found["mid/w"], found["in/w"], found["out/w"]
    # Table 3 (initial variance, SGD and Adam learning rates), relative to the base width.
    assert (inputs.kind, inputs.init, inputs.sgd, inputs.adam) == ("input", 1, 4, 1)
    assert (hidden.kind, hidden.init**2, hidden.sgd, hidden.adam) == ("hidden", 1 / 4, 1, 1 / 4)
    assert (output.kind, output.init**2, output.sgd, output.adam) == (
        "output", 1 / 16, 1 / 4, 1 / 4,
    )  # fmt: skip
    for name in ("in/b", "mid/b"):
        assert (found[name].kind, found[name].sgd, found[name].adam) == ("input", 4, 1)
    assert found["out/b"].kind == "fixed"


@pytest.mark.parametrize("tied", [False, True])
def test_table_3_on_a_transformer(tied):
    model = zoo.REGISTRY[f"heads of their own axes{', tied' if tied else ''}"]
    (fn, small), (_, big) = model.at(), model.big("wider")
    if tied:
        del small["head"], big["head"]
    found = growth.plan(fn, fn, small, big, *model.inputs).mup()
    kinds = {path: leaf.kind for path, leaf in found.leaves.items()}
    matrices = {"q", "k", "v", "o", "up", "down"}
    assert {path for path, kind in kinds.items() if kind == "hidden"} == matrices
    assert {path for path, kind in kinds.items() if kind == "input"} == {
        "positions", "norm1", "norm2", "norm3", *(() if tied else ("embed",)),
    }  # fmt: skip
    if tied:
        assert kinds["embed"] == "tied"
        assert found.outputs == {"embed": 0.5}
    else:
        assert kinds["head"] == "output"
    assert found.leaves["up"].adam == 1 / 2
    assert found.leaves["up"].sgd == 4 / 2
    assert found.leaves["down"].adam == 1 / 4
    assert found.leaves["o"].fan_in == 2
    assert found.attention == {"4→8": np.sqrt(0.5)}
    assert "hidden" in str(found)


@pytest.mark.parametrize("rule", ["adam", "sgd"])
def test_coordinate_check(rule):
    """The change of every activation after a few steps does not depend on the width, and with the
    usual parametrisation it does."""
    tx = optax.adam(0.003) if rule == "adam" else optax.sgd(0.03)
    x = jax.random.normal(jax.random.key(0), (16, 3))
    y = jnp.sin(x[:, :2] * 2.0)
    base = 32

    def start(key, n):
        keys = jax.random.split(key, 3)
        shapes = mlp_shapes(n)
        for k, name in zip(keys, shapes, strict=True):
            w, b = shapes[name]["w"], shapes[name]["b"]
            std = np.float32(1 / np.sqrt(w.shape[0]))
            shapes[name] = {"w": std * jax.random.normal(k, w.shape), "b": jnp.zeros(b.shape)}
        return shapes

    def moved(n, corrected):
        """The largest root-mean-square change of the outputs in three steps, over two seeds."""
        mup = mlp_mup(base, n)
        rule_tx = optax.chain(tx, mup.scale(rule)) if corrected else tx

        @jax.jit
        def run(params):
            state = rule_tx.init(params)
            before = mlp(params, x)
            far = []
            for _ in range(3):
                slope = jax.grad(lambda p: jnp.mean(jnp.square(mlp(p, x) - y)))(params)
                updates, state = rule_tx.update(slope, state, params)
                params = optax.apply_updates(params, updates)
                far.append(jnp.sqrt(jnp.mean(jnp.square(mlp(params, x) - before))))
            return jnp.max(jnp.stack(far))

        runs = []
        for seed in range(2):
            key = jax.random.key(seed)
            params = mup.init(start(key, base), key) if corrected else start(key, n)
            runs.append(float(run(params)))
        return np.mean(runs)

    with jax.numpy_dtype_promotion("standard"):  # optax.adam raises a float to its int count
        # Against the base itself the output's initial part, which vanishes with width, would count.
        ratio = moved(512, True) / moved(128, True)
        plain = moved(512, False) / moved(128, False)
    assert 0.5 < ratio < 2.0
    assert plain > 3.0


def test_init_measures_the_small_model():
    mup = mlp_mup(8, 32)
    key = jax.random.key(0)
    small = jax.tree.map(lambda s: 3.0 * jax.random.normal(key, s.shape), mlp_shapes(8))
    small["mid"]["b"] = jnp.full(8, 2.0)
    big = mup.init(small, key)
    assert big["mid"]["w"].shape == (32, 32)
    # 1024 draws: the standard deviation is known to 2 %.
    np.testing.assert_allclose(
        big["mid"]["w"].std(), np.sqrt(np.mean(np.square(small["mid"]["w"]))) / 2, rtol=0.1
    )
    np.testing.assert_array_equal(big["mid"]["b"], np.full(32, 2.0))


def test_errors():
    mup = mlp_mup(8, 32)
    with pytest.raises(ValueError, match=r"'adam'.*'sgd'"):
        mup.scale("lamb")
    with pytest.raises(growth.GrowthError, match="other is no leaf"):
        mup.scale().update({"other": jnp.ones(2)}, optax.EmptyState())
