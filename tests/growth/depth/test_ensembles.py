"""Ensembles whose members are any axis: each member's new layer is an identity between ReLUs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.growth.checking import exact
from trainkit import growth
from trainkit.growth.ir.program import Folder
from trainkit.growth.ir.simplification.identities import EYE, EYES, EYES_FIRST, order_of_product
from trainkit.growth.maps.initial import initial

pytestmark = pytest.mark.usefixtures("x64")
RNG = np.random.default_rng(0)
MEMBERS = 3


def draw(sizes):
    one = lambda s: jnp.asarray(RNG.normal(0.3, 0.6, size=s))
    return jax.tree.map(one, sizes, is_leaf=lambda s: isinstance(s, tuple))


def ensemble(words, behind=lambda h: h):
    """Layers of matrices, by an einsum; the bias has one entry for each unit of each member."""
    values, matrix, out = words.replace("->", ",").split(",")

    def fn(p, x):
        h = jax.nn.relu(jnp.einsum(words, x, p["into"]))
        for q in p["members"]:
            y = jnp.einsum(words, h, q["matrix"])
            shape = [1 if c == "b" else n for c, n in zip(out, y.shape, strict=True)]
            y = y + q["bias"].reshape(shape)
            h = jax.nn.relu(behind(y))
        return jnp.einsum(words, h, p["from"])

    def sizes(depth, n):
        size = lambda i, j: tuple({"i": i, "j": j, "k": MEMBERS}[c] for c in matrix)
        bias = tuple({"j": n, "k": MEMBERS}[c] for c in out if c in "jk")
        layers = [{"matrix": size(n, n), "bias": bias}] * depth
        return {"into": size(2, n), "members": layers, "from": size(n, 2)}

    shape = [{"b": 5, "i": 2, "k": MEMBERS}[c] for c in values]
    return fn, sizes, RNG.normal(size=shape)


WORDS = [
    "bik,ijk->bjk",
    "bki,kij->bkj",
    "kbi,kij->kbj",
    "bki,ijk->bkj",
    "bik,kji->bjk",
    "ibk,ijk->jbk",
]


@pytest.mark.parametrize(("depth", "width"), [(3, 4), (4, 8), (3, 6)])
@pytest.mark.parametrize("words", WORDS)
def test_exact(words, depth, width):
    fn, sizes, x = ensemble(words)
    plan, grown = exact(fn, draw(sizes(2, 4)), draw(sizes(depth, width)), x)
    assert growth.Plan.from_json(plan.to_json()) == plan
    (new, *_) = [leaf for leaf in plan.leaves if leaf.new and leaf.path.endswith("matrix")]
    if width == 4:
        found = grown["members"][int(new.path.split("/")[1])]["matrix"]
        places = words.split(",")[1][:3]
        for index in np.ndindex(found.shape):
            at = dict(zip(places, index, strict=True))
            assert float(found[index]) == float(at["i"] == at["j"])
    assert "every member starts as an identity" in plan.explain(new.path)


@pytest.mark.parametrize(
    "behind",
    [jnp.tanh, lambda y: y[::-1], lambda y: y + y.sum(0)],
    ids=["another function", "reversed", "a sum over the batch"],
)
def test_refused(behind):
    fn, sizes, x = ensemble("bik,ijk->bjk", behind)
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, draw(sizes(2, 4)), draw(sizes(3, 4)), x)


def test_members_are_no_units():
    """As many units as members: what is turned is not the value itself."""

    def fn(p, x):
        for w in p["turned"]:
            x = jax.nn.relu(jnp.einsum("bik,ijk->bkj", x, w))
        return x

    one = lambda depth: {"turned": [(MEMBERS,) * 3] * depth}
    x = RNG.normal(size=(5, MEMBERS, MEMBERS))
    with pytest.raises(growth.GrowthError):
        growth.plan(fn, fn, draw(one(2)), draw(one(3)), x)


@pytest.mark.parametrize("words", [*WORDS, "bi,ij->bj", "bi,ij->jb", "kib,ikj->kjb"])
@pytest.mark.parametrize("what", [EYE, EYES, EYES_FIRST])
def test_order_of_products(words, what):
    """x with its axes in this order is the product with identity matrices."""
    values, matrix, _ = words.replace("->", ",").split(",")
    size = {"b": 5, "i": 4, "j": 4, "k": 3}
    x = jnp.asarray(RNG.normal(size=[size[c] for c in values]))
    w = jnp.ones([size[c] for c in matrix])
    program = Folder().flatten(jax.make_jaxpr(lambda x, w: jnp.einsum(words, x, w))(x, w))
    product = next(eqn for eqn in program.equations if eqn.name == "dot_general")
    side = next(i for i, v in enumerate(product.ins) if v is program.ins[1])
    order = order_of_product(product, side, what)
    pair = {matrix.index("i"), matrix.index("j")}
    own = {EYE: w.ndim == 2, EYES: w.ndim == 3 and pair == {1, 2}, EYES_FIRST: pair == {0, 1}}
    assert (order is not None) == (own[what] and (w.ndim == 3 or what == EYE))
    if order is not None:
        ins = [x, x]
        ins[side] = initial(what, w.shape, x.dtype, None)
        found = product.raw.primitive.bind(*ins, **product.params)
        np.testing.assert_array_equal(found, jnp.transpose(x, order))
