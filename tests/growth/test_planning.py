"""The plan on small functions whose maps are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth import zoo
from trainkit import growth

MODEL = zoo.REGISTRY["one hidden layer"]
mlp, _ = MODEL.at()


def mlp_params(width):
    return MODEL.params(dtype=jnp.float32, n=width)


X = jax.ShapeDtypeStruct((5, 3), jnp.float32)


def test_known_map_of_an_mlp():
    plan = growth.plan(mlp, mlp, mlp_params(4), jax.eval_shape(lambda: mlp_params(8)), X)
    maps = plan.realise(how="even").leaves
    np.testing.assert_array_equal(maps["in"].axes[1].source, np.arange(8) // 2)
    assert maps["in"].axes[0] is None
    assert maps["out"].weight == 0.5
    assert maps["in"].weight == maps["bias"].weight == 1.0


def test_plan_is_hashable_and_survives_json():
    plan = growth.plan(mlp, mlp, mlp_params(4), mlp_params(8), X)
    again = growth.Plan.from_json(plan.to_json())
    assert again == plan
    assert hash(again) == hash(plan)
    assert "out" in str(plan)


def test_the_function_named_plan_is_not_hidden_by_a_module():
    assert callable(growth.plan)


def test_shrinking_is_refused_with_its_path():
    with pytest.raises(growth.GrowthError, match=r"axis 1 of in would shrink from 8 to 4"):
        growth.plan(mlp, mlp, {**mlp_params(4), "in": mlp_params(8)["in"]}, mlp_params(4), X)


def test_programs_that_differ_are_shown_side_by_side():
    def other(params, x):
        return jnp.tanh(x @ params["in"] + params["bias"]) @ params["out"]

    with pytest.raises(growth.GrowthError, match=r"small:.*\n.*big:.*tanh") as caught:
        growth.plan(mlp, other, mlp_params(4), mlp_params(8), X)
    assert "test_planning.py" in str(caught.value)


def test_nothing_is_run_or_allocated():
    def deep(params, x):
        return jax.nn.relu(jax.nn.relu(x @ params["in"]) @ params["mid"]) @ params["out"]

    def sizes(d):  # at d = 10⁶ the matrix in the middle has 4 TB
        return {
            "in": jax.ShapeDtypeStruct((3, d), jnp.float32),
            "mid": jax.ShapeDtypeStruct((d, d), jnp.float32),
            "out": jax.ShapeDtypeStruct((d, 2), jnp.float32),
        }

    plan = growth.plan(deep, deep, sizes(500_000), sizes(1_000_000), X)
    assert [leaf.weight for leaf in plan.leaves] == [1.0, 0.5, 0.5]


def test_parameters_that_do_not_match_their_function():
    with pytest.raises(growth.GrowthError, match="the big function cannot be traced"):
        growth.plan(mlp, mlp, mlp_params(4), {**mlp_params(8), "out": jnp.zeros((7, 2))}, X)


def test_parameters_of_different_structures():
    more = {**mlp_params(8), "extra": jnp.zeros(2)}
    with pytest.raises(growth.GrowthError, match="only in big_params: \\['extra'\\]"):
        growth.plan(mlp, mlp, mlp_params(4), more, X)


def test_inputs_that_one_of_the_models_does_not_take():
    wide = {**mlp_params(8), "in": jnp.zeros((6, 8))}
    with pytest.raises(growth.GrowthError, match="these inputs"):
        growth.plan(mlp, mlp, mlp_params(4), wide, X)


def test_different_dtypes_are_refused():
    with pytest.raises(growth.GrowthError, match="bias is float32 in the small and bfloat16"):
        growth.plan(
            mlp,
            mlp,
            mlp_params(4),
            {**mlp_params(8), "bias": jnp.zeros(8, jnp.bfloat16)},
            X,
        )


def test_the_table_says_what_a_reader_needs():
    table = growth.plan(mlp, mlp, mlp_params(4), mlp_params(8), X).table()
    for word in ("leaf", "shape", "axes", "map", "weight", "gradient", "bytes", "4×2 → 8×2", "0.5",
                 "repeat", "32 → 64"):  # fmt: skip
        assert word in table, word
    with pytest.raises(ValueError, match="no growth plan"):
        growth.Plan.from_json('{"version": 7}')


def test_an_epsilon_pins_the_scale_of_what_is_normalised():
    def norm(params, x):
        x = x @ params["in"]
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
        return x @ params["out"]

    sizes = [{"in": jax.ShapeDtypeStruct((3, d), jnp.float32),
              "out": jax.ShapeDtypeStruct((d, 2), jnp.float32)} for d in (4, 8, 6)]  # fmt: skip
    double = {leaf.path: leaf.weight for leaf in growth.plan(norm, norm, *sizes[:2], X).leaves}
    assert double == {"in": 1.0, "out": 0.5}
    # 4 → 6: new units hold nothing; the old ones make up for the longer mean.
    odd = growth.plan(norm, norm, sizes[0], sizes[2], X)
    assert {a.layout for a in odd.grown_axes} == {"append"}
    weights = {leaf.path: leaf.weight for leaf in odd.leaves}
    assert weights["in"] == pytest.approx(1.5**0.5, rel=1e-6)
    assert weights["out"] == pytest.approx(1.5**-0.5, rel=1e-6)


def test_a_gain_used_as_one_plus_w_grows_by_an_affine_map():
    def tied(params, x):
        x = x @ params["emb"]
        x = x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)
        return (x * (1 + params["gain"])) @ params["emb"].T

    sizes = [{"emb": jax.ShapeDtypeStruct((3, d), jnp.float32),
              "gain": jax.ShapeDtypeStruct((d,), jnp.float32)} for d in (4, 8)]  # fmt: skip
    gain = growth.plan(tied, tied, *sizes, X).leaves[1]
    assert (gain.path, gain.weight, gain.shift) == ("gain", 0.5, 1.0)
