"""What planning does is counted, so that it stays linear in the number of layers."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.planning import BIG, SMALL, TOKENS, block, looped, post_norm, shapes, unrolled
from trainkit import growth
from trainkit.growth import search
from trainkit.growth.analysis import constants
from trainkit.growth.axes.linear import System
from trainkit.growth.depth import assembly
from trainkit.growth.ir.simplification import partial_evaluation


def counted(monkeypatch, owner, name):
    """A list that gets an entry at each call."""
    calls, fn = [], getattr(owner, name)

    def call(*args, **kwargs):
        calls.append(args)
        return fn(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_work_is_linear_in_layers(monkeypatch):
    """Width in an unrolled model, and depth with it: equations that are added and simplified."""
    rows = counted(monkeypatch, System, "reduce")
    seen = counted(monkeypatch, partial_evaluation, "_simplified")
    model, found = unrolled(block), []
    for layers in (2, 4, 6):
        rows.clear(), seen.clear()
        growth.plan(model, model, shapes(SMALL, layers // 2), shapes(BIG, layers), TOKENS)
        found.append((len(rows), len(seen)))
    two, four, six = found
    assert min(two) > 0
    assert [c - b for b, c in zip(four, six, strict=True)] == pytest.approx(
        [b - a for a, b in zip(two, four, strict=True)], rel=0.05
    )


def test_a_loop_costs_what_one_layer_costs(monkeypatch):
    rows = counted(monkeypatch, System, "reduce")
    found = []
    for layers in (2, 48):
        rows.clear()
        sizes = (shapes(size, layers, loop=True) for size in (SMALL, BIG))
        growth.plan(looped, looped, *sizes, TOKENS)
        found.append(len(rows))
    assert found[0] == found[1] > 0


def test_one_reason_in_another_layer_ends_the_search(monkeypatch):
    """A post-norm layer can be an identity nowhere, however many layers there are."""
    model, tried = unrolled(post_norm), counted(monkeypatch, assembly, "identity_layers")
    with pytest.raises(growth.GrowthError, match="cannot be an identity"):
        growth.plan(model, model, shapes(SMALL, 5), shapes(SMALL, 10), TOKENS)
    assert len(tried) <= 2 * search.ALIKE  # in each of two orders of new layers


def test_a_large_table_is_refused_by_a_part_of_it(monkeypatch):
    """Sinusoidal positions, 512 of them; the whole table is not compared."""
    compared = counted(monkeypatch, constants, "_ratio")

    def model(p, x):
        units, places = (jnp.arange(n, dtype=jnp.float32) for n in (p["w"].shape[1], 512))
        table = jnp.sin(places[:, None] * (units + 0.5) / units.size)
        return jnp.tanh(x @ p["w"] + table) @ p["out"]

    s = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.float32)
    sizes = lambda n: {"w": s(3, n), "out": s(n, 2)}
    with pytest.raises(growth.GrowthError, match="table"):
        growth.plan(model, model, sizes(4), sizes(8), s(512, 3))
    assert max(c.size for c, _ in compared) == constants.FEW * 8
