"""A search that returns conflicts as data, and what is decided from them."""

import jax
import jax.numpy as jnp
import pytest

from trainkit import growth
from trainkit.growth import search
from trainkit.growth.analysis.joint_program import Analysis, JointProgram
from trainkit.growth.analysis.layout_search import choose_layouts
from trainkit.growth.analysis.solve import solve
from trainkit.growth.analysis.values import Value
from trainkit.growth.errors import Conflict, unwrap
from trainkit.growth.ir.program import Folder
from trainkit.growth.plan.data import PlanData
from trainkit.growth.rules import RULES, UNKNOWN


def stream(params, x):
    """A stream that a root mean square norm reads: at no multiple, new units must be 0."""
    y = x @ params["in"]
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), -1, keepdims=True)) * params["scale"]
    return y @ params["out"]


def shapes(width):
    sizes = {"in": (3, width), "out": (width, 2), "scale": (width,)}
    return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}


X = jax.ShapeDtypeStruct((5, 3), jnp.float32)


def joint_program(fn, small, big, x):
    analysis = Analysis(RULES, UNKNOWN, Folder())
    programs = [analysis.folder.flatten(jax.make_jaxpr(fn)(p, x)) for p in (small, big)]
    for i, (name, s) in enumerate(small.items()):
        analysis.params.append((name, Value(s.shape, big[name].shape, s.dtype, origin=i)))
    values = [v for _, v in analysis.params] + [Value(x.shape, x.shape, x.dtype)]
    return JointProgram(analysis, values, *unwrap(analysis.join(*programs, values)))


def test_another_layout_of_the_leaf_that_a_conflict_names():
    joint = joint_program(stream, shapes(4), shapes(6), X)
    layouts = unwrap(choose_layouts(joint))
    conflict = solve(joint, layouts)
    assert isinstance(conflict, Conflict)
    assert conflict.kind == "shares"
    assert conflict.primitive == "reduce_sum"
    (leaf,) = conflict.leaves
    assert layouts[leaf.uid] == "repeat"
    plan = solve(joint, layouts.but({leaf.uid: "append"}))
    assert isinstance(plan, PlanData)
    assert layouts[leaf.uid] == "repeat"  # a choice is never changed
    assert solve(joint, layouts) == conflict  # nor does what was solved before matter
    assert growth.Plan.of(plan) == growth.plan(stream, stream, shapes(4), shapes(6), X)


def test_an_error_says_which_operator_would_do():
    def heads(params, x):
        return jnp.sum((x @ params["w"]).reshape(5, params["groups"].shape[0], -1), 1)

    def of(groups):
        sizes = {"w": (3, 8), "groups": (groups,)}
        return {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in sizes.items()}

    with pytest.raises(growth.GrowthError, match="key heads alone") as caught:
        growth.plan(heads, heads, of(2), of(4), X)
    assert caught.value.remedy == "groups"


def test_a_size_that_is_no_multiple_is_an_error_about_its_parameters():
    def waves(params, x):
        return jnp.mean(jnp.cos(x @ params["in"]), -1) * params["out"].sum()

    small, big = ({"in": shapes(n)["in"], "out": shapes(3)["scale"]} for n in (4, 6))
    with pytest.raises(growth.GrowthError, match="6 is not a multiple of 4") as caught:
        growth.plan(waves, waves, small, big, X)
    assert caught.value.axis == "4→6"
    assert caught.value.params == ("in (axis 1: 4→6)",)


def test_one_reason_is_enough(monkeypatch):
    """What no alignment of layers changes is not asked of all of them."""

    def net(params, x):
        x = jnp.cumsum(x @ params["in"], -1)
        for layer in params["layers"]:
            x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
        return x @ params["out"]

    def sized(width, depth):
        draw = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
        layer = {"up": draw(width, 7), "down": draw(7, width)}
        return {"in": draw(3, width), "layers": [layer] * depth, "out": draw(width, 2)}

    solved = []
    solve_width = search.solve_width

    def counted(*args):
        solved.append(solve_width(*args))
        return solved[-1]

    monkeypatch.setattr(search, "solve_width", counted)
    with pytest.raises(growth.GrowthError, match="`cumsum` runs along an axis that grows"):
        growth.plan(net, net, sized(4, 3), sized(8, 6), X)
    assert [conflict.primitive for conflict in solved] == [
        "cumsum"
    ] * 3  # once more behind the last
