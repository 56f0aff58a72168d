"""Plans of single layers, operators and near misses: what the other tests of growth hold."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tests.growth import test_linen_layers, test_memory, test_planning, zoo
from tests.growth.analysis import test_padding, test_row_means
from tests.growth.golden.cases import Case, Table, of_model
from tests.growth.ir import test_custom_gradients, test_lookups
from tests.growth.maps import test_params, test_rms
from tests.growth.plan import test_experts, test_groups, test_validation
from tests.growth.views import test_mup, test_prune
from tests.growth.zoo.building import as_dtype
from trainkit import growth

X = jax.ShapeDtypeStruct((5, 3), jnp.float32)


def same(fn: Any, small: Any, big: Any, *inputs: Any, **options: Any) -> Case:
    return lambda: growth.plan(fn, fn, small, big, *inputs, **options)


def layer(name: str) -> dict[str, Case]:
    """A layer of Flax Linen at each of its wider sizes."""
    body, x, small, wider = test_linen_layers.LAYERS[name]
    model = test_linen_layers.net(body)

    def planned(sizes):
        shapes = (jax.eval_shape(model(s).init, jax.random.key(0), x) for s in (small, sizes))
        return growth.plan(model(small).apply, model(sizes).apply, *shapes, x)

    more = [(8, 5)] if name == "spectral norm" else []  # refused: an output of fixed width
    return {str(sizes): functools.partial(planned, sizes) for sizes in [*wider, *more]}


def wider(name: str, **sizes: int) -> Case:
    """A model of the registry at sizes that are not in it."""
    return of_model(dataclasses.replace(zoo.REGISTRY[name], grown={"more": sizes}))["more"]


def appended() -> dict[str, Case]:
    shapes, x = test_padding.mlp_shapes, test_padding.X
    attend = test_padding.attention_shapes
    plan = functools.partial(same, test_padding.mlp)
    heads = functools.partial(same, test_padding.attention, attend(2, 2, 4, 4))
    return {
        "hidden": plan(shapes(4, 6), shapes(4, 12), x, append=[("in", 1)]),
        "stream": plan(shapes(4, 6), shapes(8, 6), x, append=[("stream", 1)]),
        "to no multiple": plan(shapes(4, 6), shapes(4, 9), x, append=[("in", 1)]),
        "an axis that stays": plan(shapes(4, 6), shapes(4, 9), x, append=[("in", 0)]),
        "heads": heads(attend(4, 4, 4, 4), test_padding.X, append=[("^q$", 1)]),
        "size of a head": heads(attend(2, 2, 6, 4), test_padding.X, append=[("^q$", 2)]),
    }


def row_means() -> Table:
    shapes, x = test_row_means.shapes, test_row_means.X
    s = test_padding.s
    bent = (test_row_means.after_norm, test_row_means.bent, test_row_means.scaled_branch)
    ends = [{"in": s(6, d), "out": s(d, 3)} for d in (5, 8)]
    return {
        **{
            f"row means, {name}": {
                str(wide): same(test_row_means.model(norm), shapes(5), shapes(wide, 7), x)
                for wide in (6, 8, 11)
            }
            for name, norm in test_row_means.NORMS.items()
        },
        **{
            f"row means, {fn.__name__}": {
                str(wide): same(fn, shapes(5), shapes(wide), x) for wide in (8, 10)
            }
            for fn in bent
        },
        "row means, near misses": {
            name: same(fn, *ends, x) for name, fn in test_row_means.near_misses()
        },
    }


def lookups() -> Table:
    ids, sizes = jax.ShapeDtypeStruct((6,), np.int32), test_lookups.sizes
    clipped = lambda table, ids: jnp.take(table, ids, axis=0, mode="clip")
    return {
        f"lookup, {name}": {
            str(size): same(test_lookups.model(look), sizes(5, 4), sizes(*size), ids)
            for size in ((9, 4), (5, 8), (7, 6))
        }
        for name, look in {**test_lookups.LOOKUPS, "clipped": clipped}.items()
    }


def backward(name: str) -> Case:
    """A backward pass of its own between two layers."""
    identity = test_custom_gradients._with_backward(test_custom_gradients.BACKWARD[name][0])

    def fn(params, x):
        return identity(jnp.tanh(x @ params["in"])) @ params["out"]

    s = test_padding.s
    small, big = ({"in": s(3, d), "out": s(d, 2)} for d in (4, 8))
    return same(fn, small, big, s(5, 3))


def mixtures() -> dict[str, Case]:
    draw, x = test_experts.draw, test_experts.X

    def chosen(k, n, over):
        fns = [lambda p, x, k=k: test_experts.mixture(p, x, k, over) for k in k]
        return lambda: growth.plan(*fns, draw(3), draw(n), x)

    named = lambda n, **last: lambda: growth.Plan.of_experts(draw(3), draw(n), **last)
    return {
        "chosen alone": chosen((2, 4), 6, True),
        "over all": chosen((2, 4), 6, False),
        "threefold": chosen((1, 3), 9, True),
        "as few": chosen((2, 2), 6, True),
        "no multiple": chosen((2, 4), 7, True),
        "by names": named(6),
        "by names, with a last": named(6, last="down"),
        "by names, no multiple": named(7),
    }


def groups() -> dict[str, Case]:
    draw = test_groups.draw
    more = growth.Plan.of_groups
    return {
        **{f"{n} → {m}": lambda n=n, m=m: more(draw(n), draw(m)) for n, m in [(1, 2), (2, 4)]},
        "two ratios": lambda: more({"a": np.ones(2), "b": np.ones(2)},
                                   {"a": np.ones(4), "b": np.ones(3)}),
    }  # fmt: skip


def transformers() -> dict[str, Case]:
    tokens = jax.ShapeDtypeStruct((2, 4), np.int32)

    def case(tied):
        fn = functools.partial(test_mup.transformer, tied=tied)
        sides = [test_mup.transformer_shapes(*s) for s in ((8, 2, 4, 16), (16, 2, 8, 64))]
        return same(fn, *sides, tokens)

    return {"untied": case(False), "tied": case(True), "applied": test_params.plan_for}


def twenty_layers() -> growth.Plan:
    model = zoo.REGISTRY["products of three arrays"]
    (fn, small), (_, big) = (model.at(depth=20, e=e) for e in (3, 5))
    return growth.plan(fn, fn, *as_dtype([small, big], np.float64), *model.inputs)


NO_MULTIPLE = {
    **{
        name: wider(name, width=11)
        for name in ("gpt", "gpt merged", "gpt scaled", "gpt shared", "gpt post-norm", "vit",
                     "encoder-decoder", "scanned", "experts", "nnx")
    },
    "gmlp": wider("gmlp", d=7),
}  # fmt: skip
# What is refused before there is anything to plan.
NO_PLAN = ("unknown operator", "append a string", "no plan", "no plan either", "nothing")
SHRUNK = test_prune.draw
PARTS: Table = {
    **{f"linen, {name}": layer(name) for name in test_linen_layers.LAYERS},
    "operators": {name: same(*sides) for name, sides in test_padding.CASES.items()},
    "operators refused": {name: same(*sides[:4]) for name, sides in test_padding.REFUSALS.items()},
    "appended": appended(),
    "width of no multiple": NO_MULTIPLE,
    **row_means(),
    **lookups(),
    "backward": {name: backward(name) for name in test_custom_gradients.BACKWARD},
    "given": {
        name: call for name, (call, _) in test_validation.PLAN.items() if name not in NO_PLAN
    },
    "memory": {name: lambda make=make: make()[0] for name, make in test_memory.GROWN.items()},
    "experts": mixtures(),
    "groups": groups(),
    "transformers": transformers(),
    "twenty layers": {"5": twenty_layers},
    "perceptrons": {
        "known": lambda: growth.plan(test_planning.mlp, test_planning.mlp,
                                     test_planning.mlp_params(4), test_planning.mlp_params(8), X),
        "hidden": same(test_mup.mlp, test_mup.mlp_shapes(8), test_mup.mlp_shapes(32), X),
        "homogeneous": lambda: growth.plan(test_rms.mlp, test_rms.mlp, test_rms.draw(4, 6),
                                           test_rms.draw(12, 12), X),
        "stream": lambda: test_prune.planned(SHRUNK(4, 6), SHRUNK(8, 15)),
    },
}  # fmt: skip
