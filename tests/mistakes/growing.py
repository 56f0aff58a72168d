"""Mistakes with growth and with progressive training."""

import jax
import jax.numpy as jnp
import optax

from tests.mistakes.parts import (
    EXAMPLE,
    ROWS,
    TX,
    Net,
    build,
    fresh,
    grown,
    mlp,
    model,
    plan,
    sizes,
    stages,
    with_table,
)
from trainkit import growth, progressive

GROWTH = {
    "models swapped": (
        lambda: growth.plan(mlp, mlp, sizes(8), sizes(4), EXAMPLE),
        "axis 1 of in",
        "swap the two models",
    ),
    "a model that becomes smaller": (
        lambda: growth.grow(fresh(), Net(4), Net(2), ROWS["x"], tx=TX),
        "params/Dense_0/kernel",
        "plan.shrink",
    ),
    "another model": (
        lambda: growth.plan(
            mlp, lambda p, x: jnp.tanh(x @ p["in"]) @ p["out"], sizes(4), sizes(8), EXAMPLE
        ),
        "not the same model",
        "build both models from one definition",
    ),
    "no example": (
        lambda: growth.plan(mlp, mlp, sizes(4), sizes(8)),
        "'x'",
        "called as fn(params, *inputs)",
    ),
    "an example of other features": (
        lambda: growth.plan(
            mlp, mlp, sizes(4), sizes(8), jax.ShapeDtypeStruct((5, 7), jnp.float32)
        ),
        "(7,)",
        "the inputs have the shapes of the model",
    ),
    "modules for plan": (
        lambda: growth.plan(Net(4), Net(8), sizes(4), sizes(8), EXAMPLE),
        "small_fn is a Net",
        "trainkit.growth.grow",
    ),
    "parameters of another size": (
        lambda: plan().grow(
            {"in": jnp.ones((3, 5)), "out": jnp.ones((5, 2))}, key=jax.random.key(0)
        ),
        "in has shape (3, 5)",
        "make a plan for these parameters",
    ),
    "a plan without a key": (
        lambda: plan().grow({"in": jnp.ones((3, 4)), "out": jnp.ones((4, 2))}),
        "how='uneven'",
        "pass key=jax.random.key(0)",
    ),
    "an operator with a typing error": (
        lambda: plan().realise(jax.random.key(0), "unevn"),
        "how='unevn'",
        "choose one of uneven",
    ),
    "a state of another rule, grown": (
        lambda: growth.grow(fresh(), Net(4), Net(8), ROWS["x"], tx=optax.adam(1e-3)),
        "the optimizer state",
        "Check that tx",
    ),
    "a state of another width": (
        lambda: growth.grow(fresh(), Net(6), Net(8), ROWS["x"], tx=TX),
        "params/Dense_0/kernel",
        "pass the module that this state was trained with",
    ),
    "parameters in place of a state, grown": (
        lambda: growth.grow(fresh().params, Net(4), Net(8), ROWS["x"], tx=TX),
        "state is a dict",
        "TrainState.create(params, tx)",
    ),
    "the class of the larger model": (
        lambda: growth.grow(fresh(), Net(4), Net, ROWS["x"], tx=TX),
        "big",
        "pass a module, Net(…)",
    ),
    "an option of grow with a typing error": (
        lambda: growth.grow(fresh(), Net(4), Net(8), ROWS["x"], tx=TX, seed=0),
        "'seed'",
        "Known: tx",
    ),
    "a leaf that is not there": (lambda: plan().explain("ot"), "leaf='ot'", "did you mean 'out'"),
    "a table that changes with its size": (
        lambda: growth.plan(with_table, with_table, sizes(4), sizes(8), EXAMPLE),
        "axis 1 of in",
        "instead:",
    ),
}

PROGRESSIVE = {
    "a trigger that is a number": (
        lambda: progressive.Stage(4, until=100),
        "until must be",
        "triggers.steps(1000)",
    ),
    "how with a typing error": (
        lambda: progressive.Stage(4, how="presrve"),
        "how='presrve'",
        "did you mean 'preserve'",
    ),
    "no stages": (lambda: grown([], build), "no stages", "give at least one Stage(model)"),
    "stages of numbers": (
        lambda: grown([4, 8], build),
        "Stage 0 is 4",
        "expected Stage(model, until=…",
    ),
    "a model in place of its builder": (
        lambda: grown(stages(), model()),
        "build must be",
        "such as trainkit.from_linen",
    ),
    "an option of progressive with a typing error": (
        lambda: grown(stages(), build, log_evry=3),
        "'log_evry'",
        "did you mean 'log_every'",
    ),
    "a first stage without an end": (
        lambda: grown([progressive.Stage(4), progressive.Stage(8)], build),
        "`until`",
        "triggers.plateau('loss')",
    ),
    "a model that shrinks": (
        lambda: grown(
            [progressive.Stage(8, progressive.triggers.steps(5)), progressive.Stage(4)], build
        ),
        "Dense_1/kernel",
        "use Stage(…, shrink=True)",
    ),
    "a builder of modules": (
        lambda: grown(stages(), Net),
        "build gave a Net",
        "trainkit.from_linen(module, loss)",
    ),
    "all of the budget for the decay": (
        lambda: grown(stages(), build, decay=1.0),
        "decay",
        "a share of the budget",
    ),
}
