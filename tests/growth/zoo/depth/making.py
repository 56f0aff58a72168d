"""How models that gain layers are added."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.growth.zoo import registry
from tests.growth.zoo.building import nested, standard
from tests.growth.zoo.registry import COPIES, HOWS

FEW = ("identity", "stack")  # where a plan takes seconds


def refused(variant: str, why: str, hows=COPIES) -> dict[str, str]:
    """The cases of one variant by operators that are refused."""
    return {f"{variant}, {how}": why for how in hows}


def add(family, name, build, base, grown, *inputs, hows=HOWS, of="depth", **tags) -> None:
    """Adds a model whose size `of` may grow by each of `hows`."""
    registry.add("deeper", family, name, build, base, grown, inputs, how={of: hows}, **tags)


def model(family, name, shapes, base, grown, *inputs, **tags):
    """Adds a function of parameters and inputs that is one at every size."""

    def decorate(fn: Callable[..., Any]):
        add(family, name, one(fn, shapes), base, grown, *inputs, **tags)
        return fn

    return decorate


def one(fn: Callable[..., Any], shapes: Callable[..., Any]):
    """A `build` of one function, whose shapes alone depend on the sizes."""
    fn = standard(fn)
    return lambda **sizes: (fn, nested(shapes(**sizes)))
