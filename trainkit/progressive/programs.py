"""The programs of a growing run, from shapes alone: its steps and its growths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from trainkit.growth.operators import operator
from trainkit.progressive.stages.stage import Stage, normalised
from trainkit.progressive.transition.shrink import grown_or_shrunk
from trainkit.progressive.transition.state_growth import StageModel
from trainkit.step.train_step import TrainStep, make_train_step

PyTree = Any


def programs(
    stages: Sequence[Stage | Sequence[Any]],
    build: Callable[[Any], Any],
    tx: optax.GradientTransformation,
    batch: Callable[[Any], PyTree],
    make_step: Callable[[Any, optax.GradientTransformation], TrainStep] = make_train_step,
) -> dict[str, tuple[Any, ...]]:
    """The steps of the stages, and the growths between them, for `trainkit.cost.forecast`.

    Nothing of the size of a model or a batch is allocated, so that a run can be planned for devices
    that are not here.

    Args:
      stages, build, tx: as for `progressive`; of alternatives, the first is taken.
      batch: `stage.data` -> the shapes of a batch, as `jax.ShapeDtypeStruct`s.
      make_step: `(model, tx) -> step`, such as `functools.partial(make_train_step,
        placement="fsdp", devices=devices)`.

    Returns:
      name -> (program, arguments…): `(step, state, batch)` of each stage, and `(growth, state)`
      between two stages with different models.

    Raises:
      GrowthError: a stage's model cannot be grown from that of the stage before.

    >>> import flax.linen as nn, jax.numpy as jnp, numpy as np, optax, trainkit
    >>> from trainkit.cost import forecast
    >>> build = lambda width: trainkit.from_linen(
    ...     nn.Sequential([nn.Dense(width), nn.relu, nn.Dense(3)]),
    ...     optax.softmax_cross_entropy_with_integer_labels)
    >>> batch = {"x": jax.ShapeDtypeStruct((8, 4), jnp.float32),
    ...          "label": jax.ShapeDtypeStruct((8,), np.int32)}
    >>> from trainkit.progressive import Stage, triggers
    >>> stages = [Stage(8, until=triggers.plateau("loss")), Stage(16)]
    >>> found = programs(stages, build, optax.adam(1e-3), lambda data: batch)
    >>> {name: forecast(*parts).cost.output_bytes > 0 for name, parts in found.items()}
    {'stage 0, 8': True, 'growth to stage 1': True, 'stage 1, 16': True}
    """
    found: dict[str, tuple[Any, ...]] = {}
    before: tuple[Stage, StageModel, TrainStep] | None = None
    for number, (stage, *_) in enumerate(normalised(stages)):
        model, shapes = build(stage.model), batch(stage.data)
        state = jax.eval_shape(lambda shapes, m=model: m.state(tx, shapes, rng=0), shapes)
        step = make_step(model, tx)
        side = StageModel(stage.model, model, jax.eval_shape(step.prepared, state))
        if before is not None and before[0].model != stage.model:
            found[f"growth to stage {number}"] = _growth(before, (stage, side, step), shapes, tx)
        found[f"stage {number}, {stage.name or stage.model}"] = step, state, shapes
        before = stage, side, step
    return found


def _growth(
    before: tuple[Stage, StageModel, TrainStep],
    after: tuple[Stage, StageModel, TrainStep],
    batch: PyTree,
    tx: optax.GradientTransformation,
) -> tuple[Any, PyTree]:
    """The jitted growth of a placed state, and the shapes of that state with their shardings."""
    _, small, old = before
    stage, big, new = after
    growth = grown_or_shrunk(
        small, big, batch, tx=tx, how=operator(stage.how), reset=stage.moments == "reset",
        key=jax.random.key(0),
    )  # fmt: skip
    shardings = new.placement.state_shardings(big.state)
    placed = jax.tree.map(
        lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
        small.state,
        old.placement.state_shardings(small.state),
    )
    return jax.jit(lambda s: new.prepared(growth.apply(s)), out_shardings=shardings), placed
