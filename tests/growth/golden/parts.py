"""Plans that one test holds: near misses, options of `plan`, plans that are told by names.

What is a model is in the registry, in the same table. These are not: their options or functions are
what the test is about, and nothing else could grow them.
"""

from __future__ import annotations

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np

from tests.growth import test_memory, zoo
from tests.growth.analysis import test_padding
from tests.growth.golden.cases import Case, Table
from tests.growth.ir import test_custom_gradients
from tests.growth.plan import test_experts, test_groups, test_validation
from tests.growth.zoo.building import as_dtype
from trainkit import growth


def same(fn: Any, small: Any, big: Any, *inputs: Any, **options: Any) -> Case:
    return lambda: growth.plan(fn, fn, small, big, *inputs, **options)


def appended() -> dict[str, Case]:
    shapes, x = test_padding.stream_shapes, test_padding.X
    attend = test_padding.attention_shapes
    plan = functools.partial(same, test_padding.scaled)
    heads = functools.partial(same, test_padding.attention, attend(2, 2, 4, 4))
    return {
        "hidden": plan(shapes(4, 6), shapes(4, 12), x, append=[("in", 1)]),
        "stream": plan(shapes(4, 6), shapes(8, 6), x, append=[("stream", 1)]),
        "to no multiple": plan(shapes(4, 6), shapes(4, 9), x, append=[("in", 1)]),
        "an axis that stays": plan(shapes(4, 6), shapes(4, 9), x, append=[("in", 0)]),
        "heads": heads(attend(4, 4, 4, 4), test_padding.X, append=[("^q$", 1)]),
        "size of a head": heads(attend(2, 2, 6, 4), test_padding.X, append=[("^q$", 2)]),
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


def twenty_layers() -> growth.Plan:
    model = zoo.REGISTRY["products of three arrays"]
    (fn, small), (_, big) = (model.at(depth=20, e=e) for e in (3, 5))
    return growth.plan(fn, fn, *as_dtype([small, big], np.float64), *model.inputs)


# What is refused before there is anything to plan.
NO_PLAN = ("unknown operator", "append a string", "no plan", "no plan either", "nothing")
PARTS: Table = {
    "operators": {name: same(*sides) for name, sides in test_padding.CASES.items()},
    "operators refused": {name: same(*sides[:4]) for name, sides in test_padding.REFUSALS.items()},
    "appended": appended(),
    "backward": {name: backward(name) for name in test_custom_gradients.BACKWARD},
    "given": {
        name: call for name, (call, _) in test_validation.PLAN.items() if name not in NO_PLAN
    },
    "memory": {name: lambda name=name: test_memory.grown(name)[0] for name in test_memory.GROWN},
    "experts": mixtures(),
    "groups": groups(),
    "twenty layers": {"5": twenty_layers},
}  # fmt: skip
