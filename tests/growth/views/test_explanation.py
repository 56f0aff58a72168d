"""`plan.explain`: why each leaf grows as it does, in words and lines of the model."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trainkit import growth


def s(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def explained_attention(p, x):
    q, k, v = (jnp.einsum("btd,dhe->bthe", x, p[name]) for name in "qkv")
    weights = jax.nn.softmax(jnp.einsum("bthe,bshe->bhts", q, k) / np.sqrt(q.shape[-1]))  # here
    return jnp.einsum("bhts,bshe,hed->btd", weights, v, p["out"])


def shapes(heads, each):
    return {**{name: s(6, heads, each) for name in "qkv"}, "out": s(heads, each, 6)}


def line_of(text):
    lines = pathlib.Path(__file__).read_text().splitlines()
    (found,) = (i for i, line in enumerate(lines, 1) if line.endswith(text))
    return f"{__file__}:{found} ("


@pytest.fixture(scope="module")
def plan():
    return growth.plan(
        explained_attention, explained_attention, shapes(2, 4), shapes(4, 8), s(2, 3, 6)
    )


def test_it_names_writers_readers_and_lines(plan):
    out = plan.explain("out")
    assert line_of('v, p["out"])') in out
    assert "axis 0, 2 → 4 (repeat)" in out
    assert "written by k[1], q[1], v[1]; read by out[0]" in out
    assert "factor 0.25 = 1/4 on its weights (split over 2 × 2 copies)" in out
    assert "axis 2 (6) does not grow" in out


def test_it_says_which_equation_a_factor_comes_from(plan):
    """The scores are divided by √8 instead of √4. One of query and key makes up for it."""
    (leaf,) = (x.path for x in plan.leaves if x.reason)
    text = plan.explain(leaf)
    assert leaf in "qk"
    assert "factor 1.41421 on its weights" in text
    assert "what enters `exp` at" in text
    assert "would change by a factor of 1.41421" in text
    assert line_of("# here") in text
    assert "written by k[2], q[2]; read by no leaf; contracted in a product of activ" in text


def test_a_pattern_explains_several_leaves_and_counts_the_rest(plan):
    assert plan.explain("^(q|k)$").split("\n\n")[0].startswith("k: 6×2×4 → 6×4×8")
    many = growth.Plan.of_groups({str(i): s(2) for i in range(9)}, {str(i): s(4) for i in range(9)})
    assert many.explain(".").endswith("and 3 more: 6, 7, 8")


@pytest.mark.parametrize(
    ("leaf", "says"),
    [
        ("ouut", "did you mean 'out'"),
        ("params/out", "did you mean 'out'"),
        ("w", "There are: k, out"),
    ],
)
def test_a_name_that_is_no_leaf_is_answered_with_the_nearest(plan, leaf, says):
    with pytest.raises(ValueError, match=says):
        plan.explain(leaf)


def test_a_pattern_that_is_none_is_refused(plan):
    with pytest.raises(ValueError, match="not a regular expression"):
        plan.explain("(")


def test_a_picture_of_the_users_model(tmp_path):
    """Layers that grow alike are drawn once, and new ones are told from old ones."""
    layer = lambda n: {"up": s(5, n), "down": s(n, 5)}
    sizes = lambda n, depth: {"layers": [layer(n)] * depth, "out": s(5, 3)}
    plan = growth.plan(explained_layers, explained_layers, sizes(4, 2), sizes(8, 4), s(2, 5))
    figure = plan.draw(path=tmp_path / "plan.png", names={(4, 8): "hidden units"})
    assert (tmp_path / "plan.png").read_bytes().startswith(b"\x89PNG")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("layers/*/up (2×)") == 2
    assert "4×5\n→ 8×5\n× 0.5\nnew: zero" in texts
    assert texts[-2:] == ["hidden units, 4 → 8", "does not grow"]
    with pytest.raises(ValueError, match="'up' is no leaf of the plan: layers/0/down"):
        plan.draw(leaves=["up"])


def test_a_plan_that_was_read_explains_the_same(plan):
    again = growth.Plan.from_json(plan.to_json())
    for leaf in plan.leaves:
        assert again.explain(leaf.path) == plan.explain(leaf.path)


def explained_layers(p, x):
    for layer in p["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return x @ p["out"]


def stack(p, x):
    body = lambda x, w: (x + jnp.tanh(x @ w["up"]) @ w["down"], None)  # rows
    return jax.lax.scan(body, x, p["layers"])[0] @ p["out"]


def test_new_layers_and_new_units():
    layer = lambda n: {"up": s(5, n), "down": s(n, 5)}
    sizes = lambda n, depth, outputs: {"layers": [layer(n)] * depth, "out": s(5, outputs)}
    plan = growth.plan(explained_layers, explained_layers, sizes(4, 1, 3), sizes(8, 2, 4), s(2, 5))
    assert "in a new layer: it starts at 0" in plan.explain("layers/1/down")
    assert "it starts as a copy of layers/0/up of the small model" in plan.explain("layers/1/up")
    out = plan.explain("out")
    assert "axis 1, 3 → 4 (append): the old units come first" in out
    assert "in the new units it holds the mean of the old ones" in out


def test_rows_of_a_stack_and_lines_inside_a_loop():
    sizes = lambda n: {"layers": {"up": s(n, 5, 4), "down": s(n, 4, 5)}, "out": s(5, 3)}
    plan = growth.plan(stack, stack, sizes(1), sizes(2), s(2, 5))
    text = plan.explain("layers/down")
    assert "stacked over layers along axis 0, from the old layers 0, 0 (new)" in text
    assert "new layers: it starts at 0" in text
    assert line_of("# rows") in text


def test_a_refusal_names_the_lines_that_use_its_parameters():
    def sums(p, x):
        h = x @ p["in"]  # writes
        return jnp.cumsum(h, -1) @ p["out"]

    sizes = lambda n: {"in": s(3, n), "out": s(n, 2)}
    with pytest.raises(growth.GrowthError) as caught:
        growth.plan(sums, sums, sizes(4), sizes(8), s(5, 3))
    assert f"in (axis 1: 4→8), used at {line_of('# writes')}" in str(caught.value)
