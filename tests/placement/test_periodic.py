"""Periodic averaging, held against float64 NumPy written from the papers."""

import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from trainkit.data import Sampler
from trainkit.placement import periodic
from trainkit.progressive import Stage, progressive, triggers

SIZE, STEPS = 12, 4  # examples of a batch, steps of a round
RATE, DECAY, B1, B2, EPS = 0.1, 0.02, 0.9, 0.99, 1e-8


def loss_fn(params, model_state, batch, rng):
    error = batch["x"] @ params["w"] + params["b"] - batch["y"]
    loss = (error**2 * batch["weight"]).sum()
    hits = (jnp.abs(error) < 1).astype(error.dtype)
    return trainkit.Loss(
        loss, batch["weight"].sum(), metrics={"hits": (hits.sum(), len(error) * 1.0)}
    )


def make_params():
    rng = np.random.default_rng(0)
    return {"w": rng.normal(size=5), "b": rng.normal(size=())}


def make_rounds(count, steps=STEPS, even=False, seed=1):
    """Batches [steps, SIZE, ...]; unless even, examples weigh differently, some nothing."""
    rng = np.random.default_rng(seed)
    return [
        {
            "x": rng.normal(size=(steps, SIZE, 5)),
            "y": rng.normal(size=(steps, SIZE)),
            "weight": np.ones((steps, SIZE)) if even else rng.integers(0, 4, (steps, SIZE)) * 1.0,
        }
        for _ in range(count)
    ]


def fresh(tx, **options):
    return trainkit.TrainState.create(jax.tree.map(jnp.asarray, make_params()), tx, **options)


def run(tx, rounds, placement, steps=STEPS, **options):
    """The state after some rounds, and the metrics of each."""
    step = trainkit.make_train_step(
        loss_fn, tx, placement=placement, steps_per_call=steps, **options
    )
    state, rows = step.place(fresh(tx)), []
    for batch in rounds:
        state, metrics = step(state, batch)
        rows.append(jax.device_get(metrics))
    assert step.compiles == 1
    return state, rows


# -- the reference ---------------------------------------------------------------------------------


def gradient(params, batch):
    """Σ total, Σ weight and the gradient of their ratio."""
    x, y, w = batch["x"], batch["y"], batch["weight"]
    error = x @ params["w"] + params["b"] - y
    grads = {"w": x.T @ (2 * w * error), "b": (2 * w * error).sum()}
    return (w * error**2).sum(), w.sum(), {k: g / max(w.sum(), 1e-300) for k, g in grads.items()}


class Descent:
    def init(self, params):
        return {}

    def update(self, grads, state, params):
        return {k: -RATE * g for k, g in grads.items()}, state


class AdamW:
    def init(self, params):
        zeros = lambda: {k: np.zeros_like(p) for k, p in params.items()}
        return {"t": 0, "m": zeros(), "v": zeros()}

    def update(self, grads, state, params):
        t = state["t"] + 1
        m = {k: B1 * state["m"][k] + (1 - B1) * g for k, g in grads.items()}
        v = {k: B2 * state["v"][k] + (1 - B2) * g**2 for k, g in grads.items()}
        u = {
            k: -RATE
            * (m[k] / (1 - B1**t) / (np.sqrt(v[k] / (1 - B2**t)) + EPS) + DECAY * params[k])
            for k in grads
        }
        return u, {"t": t, "m": m, "v": v}


def averaged(trees, weights):
    share = np.asarray(weights) / np.sum(weights)
    if isinstance(trees[0], dict):
        return {k: averaged([t[k] for t in trees], weights) for k in trees[0]}
    if isinstance(trees[0], int):
        return trees[0]
    return sum(s * tree for s, tree in zip(share, trees, strict=True))


def reference(rule, rounds, replicas, outer=None, moments="mean"):
    """Parameters and optimizer state after the rounds, and the loss of each inner step."""
    params = make_params()
    state, velocity = rule.init(params), {k: np.zeros_like(p) for k, p in params.items()}
    each, losses = SIZE // replicas, []
    for batches in rounds:
        ends, weights, rows = [], [], []
        for r in range(replicas):
            own, held, sums = dict(params), state, []
            for step in range(len(batches["y"])):
                part = {k: x[step, r * each : (r + 1) * each] for k, x in batches.items()}
                total, weight, grads = gradient(own, part)
                updates, held = rule.update(grads, held, own)
                own = {k: own[k] + updates[k] for k in own}
                sums.append((total, weight))
            ends.append((own, held))
            rows.append(sums)
            weights.append(sum(w for _, w in sums))
        losses.append([t / w for t, w in np.sum(rows, axis=0)])
        mean = averaged([own for own, _ in ends], weights)
        states = [held for _, held in ends]
        state = averaged(states, weights) if moments == "mean" else states[0]
        if outer is None:
            params = mean
            continue
        rate, momentum = outer  # SGD with Nesterov's momentum, on θ − mean
        for k in params:
            delta = params[k] - mean[k]
            velocity[k] = momentum * velocity[k] + delta
            params[k] = params[k] - rate * (delta + momentum * velocity[k])
    return params, state, np.array(losses), velocity


ADAMW = lambda: tt.adamw(RATE, b1=B1, b2=B2, eps=EPS, weight_decay=DECAY)


def assert_near(got, want, rtol=1e-11):
    """float64 throughout: some hundred operations, each of relative error 1e-16."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-13), got, want)


@pytest.mark.parametrize("replicas", [2, 3, 4])
@pytest.mark.parametrize("rule", ["descent", "adamw"])
def test_plain_averaging_is_that_of_numpy(x64, rule, replicas):
    tx, by_hand = (tt.sgd(RATE), Descent()) if rule == "descent" else (ADAMW(), AdamW())
    state, rows = run(tx, make_rounds(3), periodic(replicas))
    params, moments, losses, _ = reference(by_hand, make_rounds(3), replicas)
    assert_near(state.params, params)
    assert_near(np.array([row["loss"] for row in rows]), losses)
    if rule == "adamw":
        assert_near(tt.get(state, "mu"), moments["m"])
        assert_near(tt.get(state, "nu"), moments["v"])
    assert int(state.step) == 12


@pytest.mark.parametrize("replicas", [2, 4])
@pytest.mark.parametrize("moments", ["mean", "first"])
def test_diloco_is_that_of_numpy(x64, replicas, moments):
    tx = tt.lookahead(ADAMW(), STEPS, outer=optax.sgd(0.7, momentum=0.9, nesterov=True))
    state, rows = run(tx, make_rounds(4), periodic(replicas, moments=moments))
    params, held, losses, velocity = reference(
        AdamW(), make_rounds(4), replicas, outer=(0.7, 0.9), moments=moments
    )
    assert_near(state.params, params)
    assert_near(np.array([row["loss"] for row in rows]), losses)
    assert_near(tt.get(state, "mu"), held["m"])
    assert_near(state.opt_state.slow, params)
    assert_near(optax.tree_utils.tree_get(state.opt_state.outer_state, "trace"), velocity)


@pytest.mark.parametrize("around", ["chain", "groups", "masked", "factor"])
def test_an_outer_step_is_the_same_wherever_it_is_in_the_rule(x64, around):
    """A factor on all updates slows the inner steps, and not the outer one."""
    outer = lambda: optax.sgd(0.7, momentum=0.9, nesterov=True)
    diloco = lambda tx: tt.lookahead(tx, STEPS, outer=outer())
    wraps = {
        "chain": tt.chain(tt.clip_by_global_norm(1e9), diloco(ADAMW())),
        "groups": tt.groups([("w", diloco(ADAMW())), (".*", diloco(ADAMW()))]),
        "masked": optax.masked(diloco(ADAMW()), {"w": True, "b": True}),
        "factor": optax.chain(diloco(tt.sgd(2 * RATE)), optax.scale(0.5)),
    }
    state, _ = run(wraps[around], make_rounds(3), periodic(4))
    rule = Descent() if around == "factor" else AdamW()
    params, *_ = reference(rule, make_rounds(3), 4, outer=(0.7, 0.9))
    assert_near(state.params, params)


# -- what it is equal to ---------------------------------------------------------------------------


def noisy(params, model_state, batch, rng):
    """A loss that depends on random numbers, with a running mean and a counter."""
    noise = jax.random.normal(rng, batch["y"].shape, batch["y"].dtype)
    error = batch["x"] @ params["w"] + params["b"] - batch["y"] + noise
    kept = {
        "mean": 0.9 * model_state["mean"] + 0.1 * error.mean(),
        "seen": model_state["seen"] + 1,
    }
    return trainkit.Loss((error**2 * batch["weight"]).sum(), batch["weight"].sum(), kept)


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("replicas", [2, 4])
def test_one_step_of_gradient_descent_a_call_is_synchronous_training(x64, replicas, microbatches):
    ends = []
    for placement in ("shard_map", "periodic"):
        step = trainkit.make_train_step(
            noisy, tt.sgd(RATE), placement=placement, devices=replicas, microbatches=microbatches
        )
        model_state = {"mean": jnp.zeros(()), "seen": jnp.zeros((), jnp.int32)}
        state = step.place(fresh(tt.sgd(RATE), model_state=model_state, rng=5))
        for batch in make_rounds(5, 1):
            state, metrics = step(state, jax.tree.map(lambda x: x[0], batch))
        ends.append((state.params, state.model_state, metrics["loss"], state.step))
    # The mean of steps is the step of the mean, up to the rounding of float64.
    assert_near(*ends)


def test_one_replica_is_one_device(x64):
    tx = tt.lookahead(ADAMW(), STEPS, outer=tt.nesterov(0.7, 0.9))
    alone, rows = run(tx, make_rounds(3), "single", norms=True)
    state, found = run(tx, make_rounds(3), periodic(1), norms=True)
    assert_near(state.params, alone.params)
    assert_near(jax.tree.leaves(state.opt_state), jax.tree.leaves(alone.opt_state))
    for row, other in zip(found, rows, strict=True):
        # The outer step is none of the last inner one, whose norms are those of before.
        for name in ("loss", "hits", "grad_norm"):
            assert_near(row[name], other[name])
        assert_near(row["param_norm"][:-1], other["param_norm"][:-1])


def test_the_state_is_the_same_on_every_device():
    tx = tt.lookahead(ADAMW(), STEPS, outer=tt.nesterov(0.7, 0.9))
    rounds = jax.tree.map(np.float32, make_rounds(2))
    state, _ = run(tx, rounds, periodic(4), skip_nonfinite=True)
    for leaf in jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))):
        copies = [np.asarray(shard.data) for shard in leaf.addressable_shards]
        assert len(copies) == 4
        assert all(np.array_equal(copies[0], copy) for copy in copies)


def test_parameters_that_nobody_changes_stay_bitwise():
    """Also with three replicas, whose mean of equal numbers is rounded."""
    tx = tt.groups([("b", None), (".*", ADAMW())])
    rounds = jax.tree.map(np.float32, make_rounds(5))
    state, _ = run(tx, rounds, periodic(3))
    assert float(state.params["b"]) == np.float32(make_params()["b"])
    assert float(tt.get(state, "learning_rate")) == np.float32(RATE)


# -- replicas of several devices -------------------------------------------------------------------


@pytest.mark.parametrize("microbatches", [1, 3])
@pytest.mark.parametrize("inside", ["jit", "fsdp"])
def test_replicas_of_several_devices_are_those_of_numpy(x64, inside, microbatches):
    """Two replicas of two devices each, in which every step is synchronous."""
    tx = tt.lookahead(ADAMW(), STEPS, outer=optax.sgd(0.7, momentum=0.9, nesterov=True))
    state, rows = run(
        tx, make_rounds(3), periodic(4, replicas=2, inside=inside), microbatches=microbatches
    )
    params, held, losses, _ = reference(AdamW(), make_rounds(3), 2, outer=(0.7, 0.9))
    assert_near(state.params, params)
    assert_near(tt.get(state, "nu"), held["v"])
    assert_near(np.array([row["loss"] for row in rows]), losses)


def test_a_sharded_state_crosses_between_replicas_once_and_in_shards():
    """Within a replica it is gathered at every step; over the slow links go shards, per call."""

    def matrix(params, model_state, batch, rng):
        return trainkit.Loss(((batch @ params) ** 2).sum(), len(batch))

    place = periodic(8, replicas=2, inside="fsdp")
    step = trainkit.make_train_step(matrix, tt.adamw(0.1), placement=place, steps_per_call=STEPS)
    state = step.place(trainkit.TrainState.create(jnp.ones((64, 256)), tt.adamw(0.1)))
    batch = np.random.default_rng(0).normal(size=(STEPS, 16, 64)).astype(np.float32)
    text = step.compile(state, batch).as_text()
    state, _ = step(state, batch)
    assert state.params.sharding.spec == jax.sharding.PartitionSpec(None, "data")
    sent = [
        line
        for line in text.splitlines()
        if re.search(rf" ({COLLECTIVE.pattern})(-start)?\(", line)
    ]
    across = [line for line in sent if crosses(line, replica=4)]
    assert across
    assert not [line for line in bodies_of_loops(text) if line in across]
    shapes = [re.findall(r"f32\[([\d,]+)\]", line.split(" all-reduce")[0]) for line in across]
    arrays = [shape for found in shapes for shape in found if "," in shape]
    assert sorted(arrays) == ["64,64"] * 3  # of a quarter of the devices: parameters and moments


def groups_of(line):
    """The groups of devices of a collective."""
    if written := re.search(r"replica_groups=\{(\{.*?\})\}", line):
        return re.findall(r"\{([\d,]*)\}", written[1])
    if counted := re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[(\d+)\](?!T)", line):
        rows, size = int(counted[1]), int(counted[2])
        ids = np.arange(rows * size).reshape(rows, size)
        return [",".join(map(str, row)) for row in ids]
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\] ?\{([^}]*)\}", line):
        axes = re.findall(r"'(\w+)'", named[2])
        ids = np.arange(8).reshape(2, 4)
        rows = {("replica",): ids.T, ("data",): ids}.get(tuple(axes), ids.reshape(1, 8))
        return [",".join(map(str, row)) for row in rows]
    raise AssertionError(line)


def crosses(line, replica):
    """Whether a collective has devices of two replicas, of `replica` devices each."""
    return any(
        len({int(device) // replica for device in group.split(",")}) > 1
        for group in groups_of(line)
    )


def test_a_number_of_replicas_that_does_not_divide_is_refused():
    with pytest.raises(ValueError, match=r"replicas=3 must divide the 8 devices.*devices=6"):
        periodic(8, replicas=3)


# -- weights, metrics, skipped steps ---------------------------------------------------------------


def test_metrics_are_those_of_all_examples(x64):
    """The loss and its metrics by their weights; norms and the like are means over replicas."""
    (batches,) = make_rounds(1)
    _, (row,) = run(tt.sgd(RATE), [batches], periodic(4), norms=True)
    params, each = make_params(), SIZE // 4
    parts = [{k: x[0, r * each : (r + 1) * each] for k, x in batches.items()} for r in range(4)]
    found = [gradient(params, part) for part in parts]
    totals, weights = (np.array([f[i] for f in found]) for i in (0, 1))
    norms = [np.sqrt((g["w"] ** 2).sum() + g["b"] ** 2) for *_, g in found]
    assert weights.std() > 0
    assert row["loss"][0] == pytest.approx(totals.sum() / weights.sum(), rel=1e-12)
    assert row["grad_norm"][0] == pytest.approx(np.mean(norms), rel=1e-12)
    error = batches["x"][0] @ params["w"] + params["b"] - batches["y"][0]
    assert row["hits"][0] == pytest.approx((np.abs(error) < 1).mean(), rel=1e-12)


def test_a_replica_of_padding_alone_does_not_count(x64):
    """Weight decay moves its parameters, too, but it has no examples that speak for them."""
    rounds = make_rounds(2)
    for batch in rounds:
        batch["weight"][:, 9:] = 0
    state, _ = run(ADAMW(), rounds, periodic(4))
    three = [{k: x[:, :9] for k, x in batch.items()} for batch in rounds]
    step = trainkit.make_train_step(loss_fn, ADAMW(), placement=periodic(3), steps_per_call=STEPS)
    other = step.place(fresh(ADAMW()))
    for batch in three:
        other, _ = step(other, batch)
    assert_near(state.params, other.params)


def test_without_any_weight_all_replicas_count_alike(x64):
    rounds = make_rounds(1)
    rounds[0]["weight"][:] = 0
    state, (row,) = run(ADAMW(), rounds, periodic(4))
    assert (row["loss"] == 0).all()
    decayed = (1 - RATE * DECAY) ** STEPS  # with no gradient, AdamW only decays
    assert_near(state.params, {k: decayed * p for k, p in make_params().items()})


def test_each_replica_skips_its_own_steps(x64):
    rounds = make_rounds(2, even=True)
    rounds[0]["y"][1, 0] = np.nan  # an example of the first of four replicas
    rounds[0]["y"][1:3, 5] = np.nan  # two steps of the second
    state, rows = run(tt.sgd(RATE), rounds, periodic(4), skip_nonfinite=True)
    assert rows[0]["skipped_steps"].tolist() == [0, 2, 3, 3]
    assert rows[1]["skipped_steps"].tolist() == [3, 3, 3, 3]
    assert int(state.guard["skipped"]) == 3
    # A skipped step is one whose examples weigh nothing, in a mean of all replicas alike.
    params, each, ends = make_params(), SIZE // 4, []
    for r in range(4):
        own = dict(params)
        for step in range(STEPS):
            part = {k: x[step, r * each : (r + 1) * each] for k, x in rounds[0].items()}
            if np.isfinite(part["y"]).all():
                grads = gradient(own, part)[2]
                own = {k: own[k] - RATE * grads[k] for k in own}
        ends.append(own)
    first, _ = run(tt.sgd(RATE), rounds[:1], periodic(4), skip_nonfinite=True)
    assert_near(first.params, averaged(ends, np.ones(4)))


def test_the_limit_is_on_the_steps_in_a_row_of_one_replica():
    rounds = jax.tree.map(np.float32, make_rounds(1, even=True))
    rounds[0]["y"][0, 0] = rounds[0]["y"][1, 5] = rounds[0]["y"][2, 8] = np.nan
    options = {"placement": periodic(4), "steps_per_call": STEPS}
    step = trainkit.make_train_step(loss_fn, tt.sgd(RATE), skip_nonfinite=1, **options)
    state, _ = step(step.place(fresh(tt.sgd(RATE))), rounds[0])
    step.check()  # one in a row on three of them
    assert int(state.guard["in_a_row"]) == 0
    rounds[0]["y"][1, 0] = np.nan
    step(state, rounds[0])
    with pytest.raises(trainkit.NonFiniteError, match="2 steps in a row"):
        step.check()


def test_a_loss_scale_is_that_of_the_replica_that_overflows():
    scale = trainkit.LossScale(initial=8.0, interval=3)
    rounds = jax.tree.map(np.float32, make_rounds(1, even=True))
    rounds[0]["y"][3, 0] = np.inf
    precision = trainkit.Precision(loss_scale=scale)
    state, _ = run(tt.sgd(RATE), rounds, periodic(4), precision=precision)
    # The first grew to 16 after three steps, and fell to 8 by the fourth; the others are at 16.
    assert float(state.guard["loss_scale"]) == 8.0


# -- what is sent ----------------------------------------------------------------------------------


def compiled(tx, steps=STEPS, **options):
    step = trainkit.make_train_step(loss_fn, tx, placement=periodic(4), steps_per_call=steps)
    state = jax.eval_shape(lambda: fresh(tx))
    batch = jax.tree.map(np.float32, make_rounds(1, steps)[0])
    return step.compile(state, batch).as_text()


def bodies_of_loops(text):
    """The lines of all computations that a loop runs, also by way of others."""
    computations, name = {}, ""
    for line in text.splitlines():
        if head := re.match(r"(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = head[1]
            computations[name] = []
        elif name:
            computations[name].append(line)
    called = r"(?:body|condition|calls|to_apply|\w+_computations?)=[{]?%?([\w.\-]+)"
    todo = [
        name
        for lines in computations.values()
        for line in lines
        if " while(" in line
        for name in re.findall(r"(?:body|condition)=%?([\w.\-]+)", line)
    ]
    found = {}
    while todo:
        name = todo.pop()
        if name not in found:
            found[name] = computations[name]
            todo += [
                n for line in found[name] for n in re.findall(called, line) if n in computations
            ]
    return [line for lines in found.values() for line in lines]


COLLECTIVE = re.compile("all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute")


@pytest.mark.parametrize("outer", [False, True])
def test_no_inner_step_communicates(outer):
    tx = tt.lookahead(ADAMW(), STEPS, outer=tt.nesterov(0.7, 0.9)) if outer else ADAMW()
    text = compiled(tx)
    lines = bodies_of_loops(text)
    assert any("dot(" in line or "fusion(" in line for line in lines)  # the model is in the loop
    assert COLLECTIVE.search(text)
    assert not [line for line in lines if COLLECTIVE.search(line)]


def test_a_call_sends_parameters_and_moments_once(x64):
    from trainkit.cost import forecast

    leaf = 64 * 1024

    def quadratic(params, model_state, batch, rng):
        return trainkit.Loss(((batch[:, :1] - params) ** 2).sum(), len(batch))

    def bytes_of(tx, steps, moments="mean", placement=None):
        step = trainkit.make_train_step(
            quadratic,
            tx,
            placement=placement or periodic(4, moments=moments),
            steps_per_call=steps,
            devices=4 if placement else None,
        )
        state = jax.eval_shape(
            lambda: trainkit.TrainState.create(jnp.zeros(leaf // 4, jnp.float32), tx)
        )
        shape = (steps, 8, 4) if steps > 1 else (8, 4)
        found = forecast(step, state, jax.ShapeDtypeStruct(shape, jnp.float32))
        assert found.steps == steps
        assert ("a step" in str(found)) == (steps > 1)
        return sum(c.bytes for c in found.collectives)

    small = 1024  # the loss, weights and counters
    diloco = tt.lookahead(tt.adamw(0.1), 10, outer=tt.nesterov(0.7, 0.9))
    reset = tt.lookahead(tt.adamw(0.1), 10, outer=tt.nesterov(0.7, 0.9), reset_state=True)
    assert leaf <= bytes_of(tt.sgd(0.1), 10) < leaf + small
    assert 3 * leaf <= bytes_of(tt.adamw(0.1), 10) < 3 * leaf + small
    assert 3 * leaf <= bytes_of(diloco, 10) < 3 * leaf + small  # slow weights are not sent
    assert 3 * leaf <= bytes_of(diloco, 10, "first") < 3 * leaf + small
    assert leaf <= bytes_of(reset, 10) < leaf + small  # nor moments that begin anew
    assert 10 * leaf <= bytes_of(tt.adamw(0.1), 10, placement="shard_map") < 10 * leaf + 10 * small


# -- refusals --------------------------------------------------------------------------------------


def refusal(tx):
    step = trainkit.make_train_step(loss_fn, tx, placement=periodic(4), steps_per_call=STEPS)
    batch = jax.tree.map(np.float32, make_rounds(1)[0])
    with pytest.raises(ValueError, match="lookahead") as error:
        step.refuse(fresh(tx), batch)
    assert step.compiles == 0
    return str(error.value)


@pytest.mark.parametrize("period", [2, 3, 8])
def test_another_period_than_that_of_a_call_is_refused(period):
    message = refusal(tt.lookahead(tt.sgd(0.1), period))
    assert f"steps_per_call={period}" in message
    assert "lookahead(tx, 4)" in message


@pytest.mark.parametrize("rule", ["soap", "8 bit"])
def test_states_that_have_no_mean_are_refused_and_the_first_is_taken(rule):
    tx = tt.soap(0.1) if rule == "soap" else tt.quantise_moments(tt.adam(0.1), min_size=1)

    def matrix(params, model_state, batch, rng):
        return trainkit.Loss(((batch @ params) ** 2).sum(), len(batch))

    def ends(batches, **options):
        placement = periodic(2, **options)
        step = trainkit.make_train_step(matrix, tx, placement=placement, steps_per_call=3)
        state = step.place(trainkit.TrainState.create(jnp.ones((3, 4)), tx))
        for batch in batches:
            state, metrics = step(state, batch)
        assert np.isfinite(metrics["loss"]).all()
        return state

    batches = np.random.default_rng(0).normal(size=(2, 3, 8, 3)).astype(np.float32)
    with pytest.raises(ValueError, match=r"periodic\(moments='first'\)"):
        ends(batches)
    state = ends(batches, moments="first")
    # The examples of the second replica change the parameters, but not the moments after a round.
    other = np.copy(batches)
    other[:, :, 4:] += 1
    one, two = (ends(b[:1], moments="first") for b in (batches, other))
    assert float(jnp.abs(one.params - two.params).max()) > 0
    jax.tree.map(np.testing.assert_array_equal, one.opt_state, two.opt_state)
    if rule == "soap":
        for basis in jax.tree.leaves(tt.get(state, "basis")):
            np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)


def test_options_are_refused():
    with pytest.raises(ValueError, match="moments"):
        periodic(2, moments="local")
    step = trainkit.make_train_step(loss_fn, tt.sgd(0.1), placement=periodic(5))
    with pytest.raises(ValueError, match="does not divide"):
        step.refuse(fresh(tt.sgd(0.1)), {"x": np.zeros((12, 5), np.float32)})


def test_a_line_search_is_that_of_each_replica(x64):
    """It needs no communication: each searches along the loss of its own examples."""
    tx = optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(15))
    rounds = make_rounds(4)
    for batch in rounds:
        batch["y"] = batch["x"].sum(-1)
    _, rows = run(tx, rounds, periodic(4))
    assert rows[-1]["loss"][-1] < rows[0]["loss"][0] / 100
    text = trainkit.make_train_step(loss_fn, tx, placement=periodic(4), steps_per_call=STEPS)
    lowered = text.compile(jax.eval_shape(lambda: fresh(tx)), make_rounds(1)[0]).as_text()
    assert not [line for line in bodies_of_loops(lowered) if COLLECTIVE.search(line)]


def test_a_rule_that_waits_for_the_first_loss_has_a_mean(x64):
    """Its best loss so far is infinite until there is one."""
    tx = optax.chain(tt.sgd(RATE), optax.contrib.reduce_on_plateau(patience=100))
    state, _ = run(tx, make_rounds(2), periodic(3))
    other, _ = run(tt.sgd(RATE), make_rounds(2), periodic(3))
    assert_near(state.params, other.params)
    best = optax.tree_utils.tree_get(state.opt_state, "best_value")
    assert np.isfinite(best)


# -- runs: resuming, other numbers of devices, growth ----------------------------------------------


class Net(nn.Module):
    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3, name="out")(nn.tanh(nn.Dense(self.width, name="in")(x)))


def classes():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(96, 4)).astype(np.float32)
    return {"x": x, "label": np.argmax(x[:, :3] + 0.3 * x[:, 1:], -1).astype(np.int32)}


def build(module):
    losses = optax.softmax_cross_entropy_with_integer_labels
    return trainkit.from_linen(module, losses, inputs=lambda batch: batch["x"])


DILOCO = lambda: tt.lookahead(tt.adamw(1e-2), 5, outer=optax.sgd(0.7, momentum=0.9, nesterov=True))


def fitted(folder, steps, devices=4, resume="same run"):
    model, tx, data = build(Net(8)), DILOCO(), Sampler(classes(), 8, seed=3)
    step = trainkit.make_train_step(
        model, tx, placement="periodic", devices=devices, steps_per_call=5, donate=True
    )
    return trainkit.fit(
        step,
        model.state(tx, data.draw(data.position)[0], rng=1),
        data,
        steps=steps,
        evaluate=lambda state: trainkit.make_eval_step(model).over(state, [classes()]),
        eval_every=10,
        checkpoint_every=10,
        out=folder,
        resume=resume,
        report=False,
    ).state


def leaves_of(state):
    return jax.device_get(jax.tree.leaves(state.replace(rng=jax.random.key_data(state.rng))))


def test_a_resumed_run_is_the_undisturbed_one_bitwise(tmp_path):
    whole = fitted(tmp_path / "whole", 30)
    fitted(tmp_path / "parts", 20)
    again = fitted(tmp_path / "parts", 30)
    assert int(again.step) == 30
    jax.tree.map(np.testing.assert_array_equal, leaves_of(again), leaves_of(whole))


def test_two_devices_go_on_with_what_four_have_saved(tmp_path):
    """Bitwise as if the two had been given the state of the four."""
    four = jax.device_get(fitted(tmp_path / "run", 20).replace(rng=0))
    with pytest.raises(ValueError, match="replicas: 4 there, 2 now"):
        fitted(tmp_path / "run", 30, devices=2)
    two = fitted(tmp_path / "run", 30, devices=2, resume="new hyperparameters")
    model, tx, data = build(Net(8)), DILOCO(), Sampler(classes(), 8, seed=3)
    step = trainkit.make_train_step(model, tx, placement="periodic", devices=2, steps_per_call=5)
    batches = [next(data) for _ in range(30)][20:]
    rng = model.state(tx, next(Sampler(classes(), 8)), rng=1).rng
    state = step.place(jax.tree.map(jnp.asarray, four).replace(rng=rng))
    for at in (0, 5):
        state, _ = step(state, jax.tree.map(lambda *x: np.stack(x), *batches[at : at + 5]))
    jax.tree.map(np.testing.assert_array_equal, leaves_of(two), leaves_of(state))


def test_a_run_grows_with_its_slow_weights_and_outer_momentum(tmp_path):
    data = classes()
    result = progressive(
        [Stage(Net(8), until=triggers.steps(20)), Stage(Net(16))],
        build,
        DILOCO(),
        Sampler(data, 8, seed=1),
        [data],
        steps=60,
        warmup=10,
        placement=periodic(4),
        options={"steps_per_call": 5},
        eval_every=20,
        out=tmp_path / "run",
        report=False,
    )
    (grown,) = [event for event in result.history if event["event"] == "growth"]
    assert grown["step"] == 20
    # float32: the same sums over units in another order.
    assert grown["certificate"]["forward_error"]["float32"] < 1e-5
    assert grown["certificate"]["loss_after"] == pytest.approx(
        grown["certificate"]["loss_before"], rel=1e-5
    )
    held = result.state.opt_state.inner
    assert held.slow["in"]["kernel"].shape == (4, 16)
    # At the end of a call the parameters are the slow weights.
    jax.tree.map(np.testing.assert_array_equal, result.state.params, held.slow)
    trace = optax.tree_utils.tree_get(held.outer_state, "trace")
    assert trace["out"]["kernel"].shape == (16, 3)
    assert result.fit.evaluation["loss"] < 0.6 * grown["certificate"]["loss_after"]
