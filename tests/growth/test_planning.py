"""The plan on small functions whose maps are known by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth


def mlp(params, x):
    return jax.nn.gelu(x @ params["in"] + params["bias"]) @ params["out"]


def mlp_params(width, dtype=jnp.float32):
    def draw(seed, *shape):
        return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)

    return {"in": draw(0, 3, width), "bias": draw(1, width), "out": draw(2, width, 2)}


X = jax.ShapeDtypeStruct((5, 3), jnp.float32)


def test_known_map_of_an_mlp():
    plan = growth.plan(mlp, mlp, mlp_params(4), jax.eval_shape(lambda: mlp_params(8)), X)
    maps = plan.realise()
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
