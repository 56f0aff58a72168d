"""Every model of the zoo, every axis that may grow, alone and together."""

import jax
import pytest

from tests.growth import checking, zoo
from trainkit import growth

ALWAYS = [("mlp relu", "all"), ("resnet", "wide"), ("gpt merged", "all"), ("plain", "odd width")]
VARIANTS = [
    pytest.param(name, variant, marks=() if (name, variant) in ALWAYS else pytest.mark.slow)
    for name, model in zoo.MODELS.items()
    for variant in model.grown
]


@pytest.mark.parametrize(("name", "variant"), VARIANTS)
def test_outputs_and_gradients_in_float64(name, variant, x64):
    # 1e-12: exact arithmetic but for the rounding of a few hundred operations.
    checking.check_variant(checking.small("zoo", name, "float64"), variant, tolerance=1e-12)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name == "llama rotary" else pytest.mark.slow)
        for name in zoo.MODELS
    ],
)
def test_outputs_in_float32(name):
    variant = list(zoo.MODELS[name].grown)[-1]  # all axes together
    checking.check_variant(checking.small("zoo", name, "float32"), variant, tolerance=5e-6)


@pytest.mark.parametrize("name", list(zoo.MODELS))
def test_planning_needs_shapes_alone(name):
    model = zoo.MODELS[name]
    small_fn, small = model.build(**model.base)
    big_fn, big = model.build(**{**model.base, **list(model.grown.values())[-1]})
    inputs = [
        jax.ShapeDtypeStruct(x.shape, "int32" if x.dtype.kind == "i" else "float32")
        for x in model.inputs
    ]
    plan = growth.plan(small_fn, big_fn, small, big, *inputs)
    assert [leaf.big for leaf in plan.leaves] == [x.shape for x in jax.tree.leaves(big)]
