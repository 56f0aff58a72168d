"""What must be 0 in the new layers of published architectures that grow in depth and width."""

import jax
import numpy as np
import pytest

from tests.growth import zoo
from tests.growth.checking import small
from trainkit import growth

ZEROED = {
    "coupling layers": {"layers/1/b", "layers/3/b"},
    "a penalty carried": {"layers/b"},
    "products of three arrays": {"layers/1/o", "layers/3/o"},
    "wavenet layers": {"layers/1/res", "layers/1/skip"},
}


@pytest.mark.parametrize("name", ZEROED)
def test_what_is_0(name, x64):
    assert set(small(name, "float64").plan("wider too, identity").zeroed) == ZEROED[name]


def test_every_layer_has_an_axis_that_grows_to_no_multiple():
    """Queries and keys are of one parameter: new units of each layer's heads are 0."""
    model = zoo.REGISTRY["products of three arrays"]
    (fn, before), (_, after) = (model.at(depth=20, e=e) for e in (3, 5))
    x = jax.ShapeDtypeStruct(model.inputs[0].shape, np.float32)
    plan = growth.plan(fn, fn, before, after, x)
    assert [axis.layout for axis in plan.grown_axes] == ["append"] * 20
