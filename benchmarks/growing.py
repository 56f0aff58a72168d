"""Character transformers that grow: the models, data and prepared stages of three parts."""

from __future__ import annotations

from typing import Any

import optax

import trainkit
from experiments.progressive_lm.model import Transformer
from trainkit.data import Sampler, shakespeare
from trainkit.progressive import Stage
from trainkit.progressive.stages.prepared import PreparedStage, Recipe
from trainkit.progressive.transition.grow import grown
from trainkit.progressive.transition.switch import Transition

LENGTH = 64
Size = tuple[int, int]  # width, depth


def build(module: Any) -> Any:
    """A module and its loss."""
    return trainkit.from_linen(module, optax.softmax_cross_entropy_with_integer_labels)


def model(width: int, depth: int) -> Transformer:
    """A character transformer."""
    return Transformer(vocabulary=84, width=width, depth=depth)


def data(batch: int = 16, seed: int = 0) -> Sampler:
    """Windows of the training text."""
    train, _, _ = shakespeare().split()
    return Sampler(train.windows(LENGTH), batch, seed=seed)


def recipe(stream: Sampler, rate: float = 1e-3, **options: Any) -> Recipe:
    """What all stages share."""
    return Recipe(
        build=build,
        tx=optax.adamw(rate),
        data=lambda _: stream,
        validation=[stream.draw((0, 0))[0]],
        grow=grown,
        **options,
    )


def prepared(
    stream: Sampler, before: Size, after: Size
) -> tuple[PreparedStage, PreparedStage, Transition]:
    """Two stages and the transition between them, none of them compiled."""
    shared = recipe(stream)
    small, big = (
        PreparedStage(shared, Stage(model(*size)), number)
        for number, size in enumerate((before, after))
    )
    return small, big, Transition(small, big)
