"""Mistakes with placements, update rules, schedules and laws."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

import trainkit
import trainkit.transforms as tt
from tests.mistakes.parts import ROWS, TX, Net, fresh, model, placed, step
from trainkit import laws, placement, schedules

PLACEMENT = {
    "a name of another library": (
        lambda: step(placement="ddp"),
        "placement",
        "did you mean 'fsdp'",
    ),
    "a typing error": (lambda: step(placement="fdsp"), "placement", "did you mean 'fsdp'"),
    "upper case": (lambda: step(placement="PMAP"), "placement", "did you mean 'pmap'"),
    "devices in place of a placement": (
        lambda: step(placement=tuple(jax.devices())),
        "placement must be",
        "a jax.sharding.Mesh",
    ),
    "more devices than there are": (
        lambda: step(placement="jit", devices=64),
        "devices=64",
        "Use at most 8",
    ),
    "devices of a mesh": (
        lambda: trainkit.make_train_step(
            model(), TX, placement=jax.sharding.Mesh(np.array(jax.devices()), ("data",)), devices=2
        ),
        "devices=",
        "needs the name of a placement",
    ),
    "rules with strings for specs": (
        lambda: placement.fsdp(rules=[("kernel", "data")]),
        "rules must be",
        "('kernel', PartitionSpec('data'))",
    ),
    "rules that are no expressions": (
        lambda: placement.fsdp(rules=[("kernel(", jax.sharding.PartitionSpec())]),
        "rules='kernel('",
        "is not a regular expression",
    ),
    "rules that do not cover": (
        lambda: trainkit.make_train_step(
            model(), TX, placement=placement.fsdp(rules=[("Dense_0", jax.sharding.PartitionSpec())])
        ).place(fresh()),
        "Dense_1/bias",
        "end the rules with ('.*', PartitionSpec())",
    ),
    "rules for an axis of no mesh": (
        lambda: trainkit.make_train_step(
            model(),
            TX,
            placement=placement.fsdp(rules=[(".*", jax.sharding.PartitionSpec("model"))]),
        ).place(fresh()),
        "'model'",
        "the mesh has ('data',)",
    ),
    "an axis that does not divide": (
        lambda: trainkit.make_train_step(
            model(),
            TX,
            placement=placement.fsdp(rules=[(".*", jax.sharding.PartitionSpec("data"))]),
        ).place(fresh()),
        "Dense_0/bias",
        "shard another axis or use PartitionSpec()",
    ),
    "a state of another placement": (
        lambda: step(placement="jit")(placed(), ROWS),
        "state/step must be on 8 devices",
        "state = step.place(state)",
    ),
}

RULES = {
    "a learning rate as text": (lambda: tt.adam("1e-3"), "learning_rate", "must be a number"),
    "a negative rate": (lambda: tt.adamw(-1e-3), "learning_rate", "at least 0"),
    "a beta of 1": (lambda: tt.adam(1e-3, b1=1.0), "b1", "must be in [0, 1)"),
    "a hyper-parameter with a typing error": (
        lambda: tt.adamw(1e-3, weight_dacay=0.1),
        "'weight_dacay'",
        "did you mean 'weight_decay'",
    ),
    "a schedule that was not made": (
        lambda: tt.adam(schedules.cosine),
        "adam: learning_rate",
        "call it: cosine(…)",
    ),
    "a rate for each of three": (
        lambda: tt.adam(lambda step: jnp.ones(3)),
        "adam: learning_rate",
        "returns a number",
    ),
    "a schedule for a beta": (
        lambda: model().state(tt.adam(1e-3, b1=schedules.constant(0.9)), ROWS),
        "adam: b1",
        "inject(adam(…, b1=schedule))",
    ),
    "a mask for another model": (
        lambda: model().state(tt.adamw(1e-3, mask={"kernel": True}), ROWS),
        "adamw: mask",
        "such as decay_mask",
    ),
    "a rule without a name": (
        lambda: tt.named(tt.adam(1e-3)),
        "named",
        "named(adam=adam(1e-3))",
    ),
    "Nesterov's step without a momentum": (
        lambda: tt.sgd(0.1, nesterov=True),
        "nesterov=True",
        "momentum=0.9",
    ),
    "a bound of 0": (lambda: tt.clip_by_global_norm(0.0), "max_norm", "must be greater than 0"),
    "a part without a call": (
        lambda: tt.chain(tt.clip_by_global_norm(1.0), tt.adam),
        "part 1 of chain",
        "call it: adam(…)",
    ),
    "a list for a chain": (
        lambda: tt.chain([tt.clip_by_global_norm(1.0), tt.adam(1e-3)]),
        "chain",
        "chain(*parts)",
    ),
    "a name that is not there": (
        lambda: tt.set(
            tt.named(adam=tt.adam(1e-3)).init({"w": jnp.ones(2)}), "adam.learning_rat", 1e-4
        ),
        "'adam.learning_rat'",
        "did you mean 'adam.learning_rate'",
    ),
    "a rate that is not in the state": (
        lambda: tt.set(optax.adam(1e-3).init({"w": jnp.ones(2)}), "learning_rate", 1e-4),
        "'learning_rate'",
        "tt.inject(tx)",
    ),
    "groups that leave one out": (
        lambda: tt.groups([("head", tt.adam(1e-3))]).init(
            {"body": jnp.ones(2), "head": jnp.ones(2)}
        ),
        "'body'",
        "('.*', None) to freeze the rest",
    ),
    "a group that matches nothing": (
        lambda: tt.groups([("had", tt.adam(1e-3)), (".*", None)]).init(
            {"body": jnp.ones(2), "head": jnp.ones(2)}
        ),
        "the rule 'had'",
        "did you mean 'head'",
    ),
    "groups as a dict": (
        lambda: tt.groups({"head": tt.adam(1e-3)}),
        "rules must be a list",
        "list(rules.items())",
    ),
    "decay without parameters": (
        lambda: tt.adamw(1e-3).update({"w": jnp.ones(2)}, tt.adamw(1e-3).init({"w": jnp.ones(2)})),
        "adamw needs the parameters",
        "update(updates, state, params)",
    ),
    "an average of no rule": (
        lambda: tt.average_params(0.999),
        "tx must be",
        "such as optax.adam(1e-3)",
    ),
    "averages of a state without any": (
        lambda: tt.averaged(fresh()),
        "averages",
        "make it with average_params(tx, decay)",
    ),
    "accumulation of 0": (lambda: tt.accumulate(tt.adam(1e-3), every=0), "every", "at least 1"),
    "a layer-wise decay in percent": (
        lambda: tt.layerwise_decay(["body", "head"], 75),
        "decay",
        "must be in (0, 1]",
    ),
    "layers that leave one out": (
        lambda: tt.layerwise_decay(["body"], 0.5).init({"body": jnp.ones(2), "head": jnp.ones(2)}),
        "'head'",
        "end the rules with",
    ),
}

SCHEDULES = {
    "steps of floats": (lambda: schedules.cosine(1e-3, 1e4), "steps", "must be an integer"),
    "no steps": (lambda: schedules.linear(1e-3, 0.0, 0), "steps", "at least 1, not 0"),
    "a value as text": (lambda: schedules.constant("1e-3"), "init", "must be a number"),
    "a rate that is no number": (
        lambda: schedules.warmup(lambda: 1e-3, 100),
        "schedule",
        "a function of the step, which takes 1 argument",
    ),
    "boundaries out of order": (
        lambda: schedules.multi_step(1e-3, [200, 100]),
        "boundaries",
        "must increase",
    ),
    "warm-up longer than the run": (
        lambda: schedules.wsd(1e-3, warmup=900, decay=100, decay_start=500),
        "decay_start 500",
        "before the warm-up's end at 900",
    ),
    "a share in percent, of a schedule": (
        lambda: schedules.one_cycle(1e-3, 100, warmup_fraction=30),
        "warmup_fraction",
        "must be in [0, 1]",
    ),
    "a plateau by a wrong word": (
        lambda: schedules.reduce_on_plateau(mode="smaller"),
        "mode",
        "'min' or 'max'",
    ),
    "a plateau's metrics": (
        lambda: schedules.reduce_on_plateau().update(
            schedules.reduce_on_plateau().init(), {"loss": 1.0}
        ),
        "metric must be a number",
        "the value of one evaluation",
    ),
}

LAWS = {
    "the class of a rule": (
        lambda: laws.check(optax.GradientTransformation),
        "the class GradientTransformation",
        "pass an instance",
    ),
    "a module for a rule": (
        lambda: laws.check(Net()),
        "found Net",
        "a function of no arguments that makes one",
    ),
    "the name of a rule": (
        lambda: laws.check("adam"),
        "'adam'",
        "expected an optax.GradientTransformation",
    ),
    "a rule that is not known": (
        lambda: laws.check(TX, like="adamm"),
        "like='adamm'",
        "did you mean 'adam'",
    ),
    "a hyper-parameter that the rule lacks": (
        lambda: laws.check(TX, like="sgd", hyperparams={"learning_rte": 0.1}),
        "learning_rte",
        "may have learning_rate",
    ),
    "a claim with a typing error": (
        lambda: laws.check(TX, claims=["ood"]),
        "'ood'",
        "did you mean 'odd'",
    ),
    "a law with a typing error": (
        lambda: laws.check(TX, laws=["purty"]),
        "'purty'",
        "did you mean 'purity'",
    ),
    "a level that is none": (
        lambda: laws.check(TX, level="hard"),
        "level",
        "'standard' or 'strict'",
    ),
    "an option of check with a typing error": (
        lambda: laws.check(TX, exmples=3),
        "'exmples'",
        "did you mean 'examples'",
    ),
    "a rule for a schedule": (lambda: laws.check_schedule(TX), "expected a schedule", "use check"),
    "a schedule for a rule": (
        lambda: laws.check(schedules.cosine(1e-3, 100)),
        "needs count",
        "a schedule is checked by check_schedule",
    ),
    "hyper-parameters without a name": (
        lambda: laws.check(TX, hyperparams={"learning_rate": 0.1}),
        "hyperparams",
        "pass like='adam'",
    ),
    "tests of an unknown law": (
        lambda: laws.parametrize(TX, laws=["purty"]),
        "'purty'",
        "did you mean 'purity'",
    ),
}
