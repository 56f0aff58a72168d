"""Plans as text: written in version 2, and read in version 1 too."""

import json
import pathlib

import jax
import jax.numpy as jnp
import pytest

from trainkit import growth

KEPT = pathlib.Path(__file__).with_name("version_1.json").read_text()


def net(p, x):
    x = x @ p["in"]
    for layer in p["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return jnp.concatenate([x, jnp.tanh(x)], -1) @ p["out"]


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def shapes(width, hidden, depth, outputs):
    layer = {"up": s(width, hidden), "down": s(hidden, width)}
    return {"in": s(3, width), "layers": [layer] * depth, "out": s(2 * width, outputs)}


@pytest.fixture(scope="module")
def plan():
    """Width and depth, a concatenation, and results that grow: what a text has to hold."""
    return growth.plan(net, net, shapes(2, 3, 1, 3), shapes(4, 5, 2, 4), s(5, 3))


def test_a_plan_is_read_as_it_was_written(plan):
    again = growth.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.trees == plan.trees
    assert json.loads(plan.to_json())["version"] == 2


def test_a_text_of_version_1_is_the_same_plan(plan):
    assert json.loads(KEPT)["version"] == 1
    old = growth.Plan.from_json(KEPT)
    assert old == plan
    assert old.trees == plan.trees
    assert (old.leaves[-1].axes[0].splits, old.leaves[-1].axes[1].fresh) == (((0,), (0,)), (2,))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not a growth plan"),
        ("3", "version 1 or 2"),
        (json.dumps({**json.loads(KEPT), "version": 3}), "version 1 or 2"),
        (json.dumps({**json.loads(KEPT), "version": 2}), "version 1 or 2"),
    ],
)
def test_other_texts_are_refused(text, says):
    with pytest.raises(ValueError, match=says):
        growth.Plan.from_json(text)
