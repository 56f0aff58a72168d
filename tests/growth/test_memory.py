"""Peak memory, as XLA counts it: at most small + big + the largest leaf, of what is grown."""

import itertools

import jax
import optax
import pytest

from tests.growth import zoo
from tests.growth.memory import peak, size
from trainkit import growth
from trainkit.growth.maps.params import grower
from trainkit.growth.opt_state.grow import grow_opt_state

SLACK = 1024  # keys, tables, and the tuple of pointers to the results


def limit(*trees):
    return sum(sum(size(tree)) for tree in trees) + max(size(trees[-1])) + SLACK


GPT = {"width": 32, "heads": 4, "hidden": 64}
LAYERS = {"a": 32, "b": 32, "c": 32}
GROWN = {  # a model of the zoo, so large that its leaves count, and what grows
    "gpt": ("gpt", GPT, {"width": 64, "heads": 8, "hidden": 128}),
    "gpt, odd sizes": ("gpt", GPT, {"width": 40, "hidden": 75}),
    "resnet": ("resnet", {"width": 16}, {"width": 32}),
    "resnet, odd sizes": ("resnet", {"width": 16}, {"width": 21}),
    "mlp": ("three widths", LAYERS, {"a": 64, "b": 64, "c": 64}),
    "mlp, odd sizes": ("three widths", LAYERS, {"a": 75, "b": 91, "c": 83}),
}


def grown(name):
    """A plan, and the shapes of both models."""
    of, base, more = GROWN[name]
    model = zoo.REGISTRY[of]
    (small_fn, small), (big_fn, big) = model.at(**base), model.at(**{**base, **more})
    spec = lambda x: jax.ShapeDtypeStruct(x.shape, "int32" if x.dtype.kind == "i" else "float32")
    return growth.plan(small_fn, big_fn, small, big, *map(spec, model.inputs)), small, big


SLOW = ("gpt", "resnet", "resnet, odd sizes", "mlp")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in GROWN]
)
def test_parameters(name):
    plan, small, big = grown(name)
    key = jax.random.key(0)
    for how in ("uneven", "noise", "zero_out"):
        compiled = jax.jit(grower(plan.realise(key, how))).lower(small, key).compile()
        assert peak(compiled) <= limit(small, big), how


RULES = {
    "momentum": lambda: optax.sgd(0.1, 0.9),
    "adamw": lambda: optax.adamw(1e-3),
    "adafactor": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=16),
    "adafactor, factored after growth": lambda: optax.adafactor(1e-3, min_dim_size_to_factor=36),
    "muon": lambda: optax.contrib.muon(1e-3),
}
DEFAULT = {("gpt, odd sizes", "adamw"), ("gpt, odd sizes", "adafactor"), ("mlp, odd sizes", "muon")}


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        pair if pair in DEFAULT else pytest.param(*pair, marks=pytest.mark.slow)
        for pair in itertools.product(GROWN, RULES)
    ],
)
def test_optimizer_states(name, rule):
    plan, small, big = grown(name)
    tx, maps = RULES[rule](), plan.realise(jax.random.key(0), "uneven")
    states = [jax.eval_shape(tx.init, params) for params in (small, big)]
    run = jax.jit(lambda state, old, new: grow_opt_state(tx, state, maps, old, new))
    compiled = run.lower(states[0], small, big).compile()
    assert peak(compiled) <= limit(*states)
    if rule == "adafactor" and not name.startswith("resnet"):  # as factored as it can be
        assert limit(*states) < sum(size(big)), "ν multiplied out would not be seen"
