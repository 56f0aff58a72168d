"""The train step: the same numbers in every placement, exact weights, and clear refusals."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit.placement import fsdp
from trainkit.step.update import NORMS

PLACEMENTS = {
    "single": "single",
    "pmap": "pmap",
    "shard_map": "shard_map",
    "jit": "jit",
    "fsdp": fsdp(min_size=16),  # so that the small leaves here are cut too
}
TX = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-2, weight_decay=1e-2))


def loss_fn(params, model_state, batch, rng):
    hidden = jnp.tanh(batch["x"] @ params["in"] + params["bias"])
    error = hidden @ params["out"] - batch["y"]
    losses = (error**2).sum(-1) * batch["weight"]
    return trainkit.Loss(losses.sum(), batch["weight"].sum(), None, {"mae": jnp.abs(error).sum()})


def make_params(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"in": (8, 32), "bias": (32,), "out": (32, 4)}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def make_batches(count, size=32, seed=1):
    """Batches with random 0/1 weights, so that every part of them weighs differently."""
    rng = np.random.default_rng(seed)
    return [
        {
            "x": rng.normal(size=(size, 8)).astype(np.float32),
            "y": rng.normal(size=(size, 4)).astype(np.float32),
            "weight": (rng.random(size) < 0.6).astype(np.float32),
        }
        for _ in range(count)
    ]


def fresh(tx=TX, **changes):
    params = jax.tree.map(jnp.asarray, make_params())
    return trainkit.TrainState.create(params, tx, rng=3).replace(**changes)


def stacked(batches):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *batches)


def relative(got, want):
    """The largest error of a leaf, relative to the leaf's largest entry."""
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(float(np.abs(np.asarray(a) - b).max() / np.abs(b).max()) for a, b in pairs)


def reference(params, batches, lr=1e-2, decay=1e-2, clip=1.0):
    """The gradient, clipping and AdamW by hand in float64 NumPy; also the norms of each step."""
    params = {k: v.astype(np.float64) for k, v in params.items()}
    mu = {k: np.zeros_like(v) for k, v in params.items()}
    nu = {k: np.zeros_like(v) for k, v in params.items()}
    norm = lambda tree: np.sqrt(sum((v**2).sum() for v in tree.values()))
    norms = []
    for t, batch in enumerate(batches, start=1):
        x, y, w = (batch[k].astype(np.float64) for k in ("x", "y", "weight"))
        hidden = np.tanh(x @ params["in"] + params["bias"])
        error = hidden @ params["out"] - y
        d_out = 2 * error * w[:, None] / w.sum()
        d_hidden = d_out @ params["out"].T * (1 - hidden**2)
        grads = {"in": x.T @ d_hidden, "bias": d_hidden.sum(0), "out": hidden.T @ d_out}
        size = norm(grads)
        loss = ((error**2).sum(-1) * w).sum() / w.sum()
        grads = {k: g * min(1.0, clip / size) for k, g in grads.items()}
        updates = {}
        for k, g in grads.items():
            mu[k] = 0.9 * mu[k] + 0.1 * g
            nu[k] = 0.999 * nu[k] + 0.001 * g**2
            adam = mu[k] / (1 - 0.9**t) / (np.sqrt(nu[k] / (1 - 0.999**t)) + 1e-8)
            updates[k] = -lr * (adam + decay * params[k])
            params[k] = params[k] + updates[k]
        norms.append({"loss": loss, "grad_norm": size, "update_norm": norm(updates)})
        norms[-1]["param_norm"] = norm(params)
    return params, norms


@pytest.fixture(scope="module")
def after_20():
    """Where a single device is after 20 steps, held against the reference by a test below."""
    step = trainkit.make_train_step(loss_fn, TX)
    state = step.place(fresh())
    for batch in make_batches(20):
        state, _ = step(state, batch)
    return jax.device_get(state.params)


def test_single_device_agrees_with_numpy_in_float64(after_20):
    want, _ = reference(make_params(), make_batches(20))
    # Adam divides by √ν: float32 rounding of 20 steps grows to about 1e-6 of the largest entry.
    assert relative(after_20, want) < 1e-5


@pytest.mark.parametrize("microbatches", [1, 2, 4])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_every_placement_takes_the_same_20_steps(placement, microbatches, after_20):
    step = trainkit.make_train_step(
        loss_fn, TX, placement=PLACEMENTS[placement], microbatches=microbatches
    )
    state = step.place(fresh())
    for batch in make_batches(20):
        state, _ = step(state, batch)
    assert relative(state.params, after_20) < 1e-6
    assert step.compiles == 1
    assert int(state.step) == 20


def test_accumulation_and_masks_are_exact_in_float64(x64):
    batches = [jax.tree.map(np.float64, batch) for batch in make_batches(3)]
    # Parts that weigh nothing at all, and one example that weighs as much as seven.
    batches[0]["weight"][:9] = 0
    batches[1]["weight"][3] = 7
    params = {k: jnp.asarray(v, jnp.float64) for k, v in make_params().items()}
    want, _ = reference(make_params(), batches)
    for placement, microbatches in [("single", 8), ("pmap", 4), ("jit", 4)]:
        step = trainkit.make_train_step(loss_fn, TX, placement=placement, microbatches=microbatches)
        state = step.place(trainkit.TrainState.create(params, TX))
        for batch in batches:
            state, _ = step(state, batch)
        assert relative(state.params, want) < 1e-12


def test_several_steps_a_call_are_the_same_steps(after_20):
    step = trainkit.make_train_step(loss_fn, TX, steps_per_call=5)
    state = step.place(fresh())
    batches = make_batches(20)
    losses = []
    for start in range(0, 20, 5):
        state, metrics = step(state, stacked(batches[start : start + 5]))
        losses.append(metrics["loss"])
    assert relative(state.params, after_20) < 1e-6
    assert losses[0].shape == (5,)
    _, norms = reference(make_params(), batches)
    np.testing.assert_allclose(np.concatenate(losses), [n["loss"] for n in norms], rtol=1e-5)


@pytest.mark.parametrize("placement", ["pmap", "jit"])
def test_several_steps_a_call_on_several_devices(placement, after_20):
    step = trainkit.make_train_step(
        loss_fn, TX, placement=placement, steps_per_call=10, microbatches=2, donate=True
    )
    state = step.place(fresh())
    batches = make_batches(20)
    for start in (0, 10):
        state, _ = step(state, stacked(batches[start : start + 10]))
    assert relative(state.params, after_20) < 1e-6


# -- metrics ---------------------------------------------------------------------------------


@pytest.mark.parametrize("placement", ["single", "fsdp"])
def test_metrics_are_those_of_the_whole_batch(placement):
    tx = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.inject_hyperparams(optax.scale_by_learning_rate)(lambda n: 0.1 / (1.0 + n)),
    )
    step = trainkit.make_train_step(
        loss_fn,
        tx,
        placement=PLACEMENTS[placement],
        microbatches=2,
        schedules={"temperature": lambda n: 2.0 * n.astype(jnp.float32)},
    )
    state = step.place(fresh(tx))
    batches = make_batches(2)
    step(state, batches[0], norms=True)  # puts its flag on the devices
    with jax.transfer_guard_device_to_host("disallow"):
        for batch in batches:
            state, metrics = step(state, batch, norms=True)
    assert all(value.shape == () for value in metrics.values())
    metrics = jax.device_get(metrics)
    assert metrics["learning_rate"] == pytest.approx(0.05)
    assert metrics["temperature"] == 2.0
    assert metrics["skipped_steps"] == 0
    first, second = batches
    # The gradient is clipped to norm 1, so the second update has the norm of its learning rate.
    assert metrics["update_norm"] == pytest.approx(0.05, rel=1e-5)
    error = lambda p: np.tanh(second["x"] @ p["in"] + p["bias"]) @ p["out"] - second["y"]
    after_one, _ = trainkit.make_train_step(loss_fn, tx)(fresh(tx), first)
    mae = np.abs(error(jax.device_get(after_one.params))).sum() / second["weight"].sum()
    assert metrics["mae"] == pytest.approx(mae, rel=1e-5)
    params = jax.tree.leaves(jax.device_get(state.params))
    assert metrics["param_norm"] == pytest.approx(np.sqrt(sum((p**2).sum() for p in params)))


def test_norms_agree_with_numpy_and_can_be_left_out():
    batches = make_batches(4)
    _, want = reference(make_params(), batches)
    every, none, third = (
        trainkit.make_train_step(loss_fn, TX, norms=norms) for norms in (True, False, 3)
    )
    states = [fresh(), fresh(), fresh()]
    for number, batch in enumerate(batches):
        outputs = [
            step(state, batch) for step, state in zip((every, none, third), states, strict=True)
        ]
        states = [state for state, _ in outputs]
        metrics = [jax.device_get(m) for _, m in outputs]
        for name, value in want[number].items():
            # Adam turns the rounding of the smallest gradients into 1e-5 of an update.
            assert metrics[0][name] == pytest.approx(value, rel=1e-4)
        assert "grad_norm" not in metrics[1]
        if number % 3 == 2:  # the third step, as the loop counts them
            assert metrics[2]["update_norm"] == pytest.approx(metrics[0]["update_norm"], rel=1e-4)
        else:
            assert np.isnan(metrics[2]["update_norm"])


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_a_call_may_ask_for_norms(placement, steps_per_call):
    make = lambda norms: trainkit.make_train_step(
        loss_fn, TX, placement=PLACEMENTS[placement], steps_per_call=steps_per_call, norms=norms
    )
    asked, always = make(None), make(True)
    batches = make_batches(3 * steps_per_call)
    if steps_per_call > 1:
        batches = [jax.tree.map(lambda *x: np.stack(x), *batches[i::3]) for i in range(3)]
    ours, theirs = asked.place(fresh()), always.place(fresh())
    for number, batch in enumerate(batches):
        ours, found = asked(ours, batch, norms=number == 1)
        theirs, want = always(theirs, batch)
        assert set(want) - set(found) == (set() if number == 1 else set(NORMS))
        for name, value in found.items():
            np.testing.assert_allclose(value, want[name], rtol=1e-5, err_msg=name)
    assert asked.compiles == 1
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ours.params, theirs.params
    )


def test_norms_that_nobody_asks_for_are_computed_in_a_branch():
    """So that they cost nothing: the branch that is not taken reads no tree."""
    text = trainkit.make_train_step(loss_fn, TX).lower(fresh(), make_batches(1)[0]).as_text()
    branches = text.split("stablehlo.case")
    assert len(branches) == 2
    not_taken, taken = branches[1].split("}, {")[:2]
    assert "stablehlo.sqrt" in taken
    assert "stablehlo.reduce" not in not_taken
    assert "stablehlo.sqrt" not in branches[0].split("stablehlo.add %arg0")[1]


def test_two_learning_rates_are_reported_by_their_labels():
    injected = lambda rate: optax.inject_hyperparams(optax.sgd)(learning_rate=rate)
    tx = optax.partition(
        {"slow": injected(0.1), "fast": injected(0.2)},
        {"in": "slow", "bias": "fast", "out": "fast"},
    )
    _, metrics = trainkit.make_train_step(loss_fn, tx)(fresh(tx), make_batches(1)[0])
    found = {k: float(v) for k, v in metrics.items() if "learning_rate" in k}
    assert found == {
        "learning_rate/slow": pytest.approx(0.1),
        "learning_rate/fast": pytest.approx(0.2),
    }


def test_a_batch_without_any_weight_has_no_gradient():
    batch = make_batches(1)[0]
    batch["weight"][:] = 0
    tx = optax.sgd(1.0)
    state, metrics = trainkit.make_train_step(loss_fn, tx, norms=True)(fresh(tx), batch)
    assert float(metrics["loss"]) == 0
    assert float(metrics["grad_norm"]) == 0
    jax.tree.map(np.testing.assert_array_equal, state.params, make_params())


@pytest.mark.parametrize(("placement", "parts"), [("single", 1), ("shard_map", 8), ("pmap", 8)])
def test_each_step_microbatch_and_device_draws_its_own(placement, parts):
    def drawing(params, model_state, batch, rng):
        draw = jax.random.uniform(rng)
        return trainkit.Loss(params["in"].sum(), 1.0, None, {"draw": (draw, 1), "sq": (draw**2, 1)})

    step = trainkit.make_train_step(drawing, TX, placement=placement, microbatches=2)
    state = step.place(fresh())
    key = jax.random.key(3)
    for number in range(2):
        state, metrics = step(state, make_batches(1)[0])
        draws = []
        for device in range(parts):
            mine = jax.random.fold_in(key, number)
            if parts > 1:
                mine = jax.random.fold_in(mine, device)
            draws += [float(jax.random.uniform(jax.random.fold_in(mine, m))) for m in range(2)]
        assert len(set(draws)) == 2 * parts
        assert float(metrics["draw"]) == pytest.approx(np.mean(draws), rel=1e-5)
        assert float(metrics["sq"]) == pytest.approx(np.mean(np.square(draws)), rel=1e-5)
    assert jnp.array_equal(jax.random.key_data(state.rng), jax.random.key_data(key))


# -- where the state lies, and how often a program is compiled ---------------------------------


@pytest.mark.parametrize("donate", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_place_neither_shares_nor_deletes_the_callers_arrays(placement, donate):
    step = trainkit.make_train_step(loss_fn, TX, placement=PLACEMENTS[placement], donate=donate)
    mine = step.place(fresh())  # lies right already, so that a plain device_put would share it
    before = jax.device_get(mine.params)
    state = step.place(mine)
    on_host = mine.replace(params=make_params())
    other = step.place(on_host)
    on_host.params["in"][:] = 0
    for batch in make_batches(2):
        new, _ = step(state, batch)
        assert state.params["in"].is_deleted() == donate
        state = new
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(mine.params), before)
    np.testing.assert_array_equal(other.params["in"], before["in"])
    assert step.compiles == 1


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_state_stays_committed_to_its_sharding(placement):
    step = trainkit.make_train_step(loss_fn, TX, placement=PLACEMENTS[placement])
    state = step.place(fresh())
    shardings = jax.tree.map(lambda x: x.sharding, state)
    for batch in make_batches(3):
        state, _ = step(state, batch)
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
            assert leaf.committed
            assert leaf.sharding.is_equivalent_to(sharding, leaf.ndim)
    assert step.compiles == 1


def test_a_fresh_state_is_placed_by_the_step():
    step = trainkit.make_train_step(loss_fn, TX, placement="jit")
    state, _ = step(fresh(), make_batches(1)[0])
    assert len(state.params["in"].sharding.device_set) == 8


def test_a_state_from_elsewhere_is_refused_and_can_be_placed():
    single = trainkit.make_train_step(loss_fn, TX)
    four = trainkit.make_train_step(loss_fn, TX, placement="jit", devices=4)
    cut = trainkit.make_train_step(loss_fn, TX, placement=PLACEMENTS["fsdp"])
    batch = make_batches(1)[0]
    for step, other in [(single, four), (four, single), (four, cut)]:
        with pytest.raises(ValueError, match=r"step\.place\(state\)"):
            step(other.place(fresh()), batch)
        step(step.place(other.place(fresh())), batch)


def test_a_changed_structure_compiles_once_more_and_no_further():
    step = trainkit.make_train_step(loss_fn, TX)
    batch, other = make_batches(1)[0], make_batches(1, size=16)[0]
    state, _ = step(fresh(), batch)
    # Only the parameters change: the step number is the very same array.
    wide = {
        "in": jnp.ones((8, 40)) * 0.1,
        "bias": jnp.zeros(40),
        "out": jnp.ones((40, 4)),
    }
    grown = step.place(state.replace(params=wide, opt_state=TX.init(wide)))
    for _ in range(2):
        state, _ = step(state, batch)
        grown, _ = step(grown, batch)
        state, _ = step(state, other)
    assert step.compiles == 3
    unplaced = state.replace(params=wide, opt_state=TX.init(wide))
    with pytest.raises(ValueError, match=r"params/bias.*step\.place"):
        step(unplaced, batch)


def test_compile_ahead_in_a_thread_is_used_by_the_next_call():
    step = trainkit.make_train_step(loss_fn, TX, placement="jit", skip_nonfinite=3)
    batch = make_batches(1)[0]
    shapes = jax.eval_shape(fresh)
    specs = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
    found = []
    thread = threading.Thread(target=lambda: found.append(step.compile(shapes, specs)))
    thread.start()
    thread.join()
    assert step.compiles == 1
    assert found[0].cost_analysis()["flops"] > 0
    state, _ = step(step.place(fresh()), batch)
    assert step.compile(state, batch) is found[0]
    assert step.compiles == 1
    assert "all-reduce" in step.lower(shapes, specs).compile().as_text()


def test_donated_state_is_gone_and_an_undonated_one_is_not():
    batch = make_batches(1)[0]
    for donate in (False, True):
        step = trainkit.make_train_step(loss_fn, TX, donate=donate)
        state = step.place(fresh())
        step(state, batch)
        assert state.params["in"].is_deleted() == donate


def test_float64_batches_are_taken_as_float32():
    step = trainkit.make_train_step(loss_fn, TX)
    batch = make_batches(1)[0]
    _, metrics = step(fresh(), jax.tree.map(np.float64, batch))
    _, same = step(fresh(), batch)
    assert metrics["loss"] == same["loss"]
    assert step.compiles == 1


def test_a_placed_batch_is_the_same_batch():
    batch = make_batches(1)[0]
    for placement in PLACEMENTS.values():
        step = trainkit.make_train_step(loss_fn, TX, placement=placement)
        _, want = step(fresh(), batch)
        _, got = step(fresh(), step.place_batch(batch))
        assert got["loss"] == want["loss"]
        assert step.compiles == 1


def test_arrays_that_are_filled_again_are_not_what_is_computed_on():
    """On a CPU, JAX works on the caller's own memory, after the call has returned."""

    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss((params["w"] * batch).sum(), len(batch))

    tx = optax.sgd(1.0)
    step, evaluate = trainkit.make_train_step(loss_fn, tx), trainkit.make_eval_step(loss_fn)
    state = step.place(trainkit.TrainState.create({"w": jnp.zeros(())}, tx))
    one = state.replace(params={"w": jnp.ones(())})
    buffer = np.empty(1 << 20, np.float32)
    sums, placed = [], []
    for value in range(5):
        buffer[:] = value
        state, _ = step(state, buffer)
        sums.append(evaluate(one, buffer)["loss"])
        placed.append(step.place_batch(buffer))
        buffer[:] = 99.0
    assert float(state.params["w"]) == -(0 + 1 + 2 + 3 + 4)
    assert [float(total / weight) for total, weight in sums] == [0, 1, 2, 3, 4]
    assert [float(batch[0]) for batch in placed] == [0, 1, 2, 3, 4]


def test_a_batch_on_another_device_is_refused():
    step = trainkit.make_train_step(loss_fn, TX, placement="jit")
    batch = jax.device_put(make_batches(1)[0], jax.devices()[3])
    with pytest.raises(ValueError, match="place_batch"):
        step(fresh(), batch)


def test_remat_changes_memory_and_not_numbers():
    batch = make_batches(1)[0]
    states = [
        trainkit.make_train_step(loss_fn, TX, remat=remat)(fresh(), batch)[0]
        for remat in (False, True, jax.checkpoint_policies.dots_saveable)
    ]
    for state in states[1:]:
        assert relative(state.params, jax.device_get(states[0].params)) < 1e-6
    step = trainkit.make_train_step(loss_fn, TX, remat=True)
    assert "optimization_barrier" in step.lower(fresh(), batch).as_text()


# -- non-finite steps ------------------------------------------------------------------------


def poisoned(batch):
    """NaN in one example only, hence on one device only."""
    x = batch["x"].copy()
    x[np.flatnonzero(batch["weight"])[0], 0] = np.nan
    return {**batch, "x": x}


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_non_finite_step_changes_nothing_but_its_count(placement, microbatches):
    def counting(params, model_state, batch, rng):
        loss = loss_fn(params, model_state, batch, rng)
        return loss._replace(model_state={"seen": model_state["seen"] + batch["x"].sum()})

    step = trainkit.make_train_step(
        counting,
        TX,
        placement=PLACEMENTS[placement],
        microbatches=microbatches,
        skip_nonfinite=True,
        donate=True,
        norms=True,
    )
    state = step.place(fresh(model_state={"seen": jnp.zeros(())}))
    good = make_batches(2)
    state, _ = step(state, good[0])
    before = jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))
    state, metrics = step(state, poisoned(good[1]))
    after = jax.device_get(state.replace(rng=jax.random.key_data(state.rng)))
    same = lambda s: (s.params, s.opt_state, s.model_state, s.rng)
    jax.tree.map(np.testing.assert_array_equal, same(before), same(after))
    assert (int(before.step), int(after.step)) == (1, 2)
    assert int(metrics["skipped_steps"]) == 1
    assert np.isnan(metrics["loss"])
    assert float(metrics["update_norm"]) == 0
    state, metrics = step(state, good[1])
    assert int(metrics["skipped_steps"]) == 1
    assert np.isfinite(metrics["loss"])
    assert not np.array_equal(state.params["in"], after.params["in"])


def test_gradients_whose_squares_overflow_are_still_finite():
    tx = optax.sgd(1.0)
    step = trainkit.make_train_step(
        lambda params, *_: trainkit.Loss(1e30 * params["in"].sum(), 1.0), tx, skip_nonfinite=True
    )
    state, metrics = step(fresh(tx), make_batches(1)[0])
    assert int(metrics["skipped_steps"]) == 0
    np.testing.assert_allclose(state.params["in"], np.full((8, 32), -1e30), rtol=1e-6)


def test_the_limit_raises_without_a_host_sync_a_step():
    step = trainkit.make_train_step(loss_fn, TX, skip_nonfinite=3)
    good, bad = make_batches(1)[0], poisoned(make_batches(1)[0])
    state = step.place(fresh())
    with jax.transfer_guard_device_to_host("disallow"):
        # Three in a row are allowed; a good step starts the count anew.
        for batch in [bad, bad, bad, good, bad, bad, bad]:
            state, metrics = step(state, batch)
        step.check()
        assert "skipped_in_a_row" not in metrics
        calls = 0

        def until_it_raises(state):
            nonlocal calls
            while True:
                state, _ = step(state, bad)
                calls += 1

        with pytest.raises(trainkit.NonFiniteError, match="4 steps in a row"):
            until_it_raises(state)
    # Call 1 is the fourth bad one; its count is waited for three calls later at the latest.
    assert 1 <= calls <= 4


def test_the_limit_within_one_call_of_many_steps():
    step = trainkit.make_train_step(loss_fn, TX, skip_nonfinite=2, steps_per_call=4)
    good = make_batches(4)
    bad = [poisoned(batch) for batch in good]
    state, _ = step(step.place(fresh()), stacked([bad[0], bad[1], good[2], bad[3]]))
    step.check()
    # The run goes on over the border of two calls.
    state, _ = step(state, stacked([bad[0], bad[1], good[2], good[3]]))
    with pytest.raises(trainkit.NonFiniteError, match="3 steps in a row"):
        step.check()


def test_without_the_option_a_nan_goes_through():
    state, metrics = trainkit.make_train_step(loss_fn, TX)(fresh(), poisoned(make_batches(1)[0]))
    assert np.isnan(state.params["in"]).any()
    assert int(metrics["skipped_steps"]) == 0


# -- precision -------------------------------------------------------------------------------


def constant_gradient(params, model_state, batch, rng):
    """L = Σ p, so that SGD takes the learning rate off every parameter."""
    return trainkit.Loss(sum(x.sum() for x in jax.tree.leaves(params)), 1.0)


def test_bf16_keeps_small_updates_in_its_float32_master_weights():
    tx = optax.sgd(1e-3)
    batch = {"x": np.zeros((2, 1), np.float32)}
    ends = {}
    for name, precision in {
        "master": "bf16",
        "bare": trainkit.Precision(compute=jnp.bfloat16, param=jnp.bfloat16),
    }.items():
        step = trainkit.make_train_step(constant_gradient, tx, precision=precision)
        state = step.place(trainkit.TrainState.create({"w": jnp.ones(3)}, tx))
        for _ in range(1000):
            state, _ = step(state, batch)
        ends[name] = state.params["w"]
    assert ends["master"].dtype == jnp.float32
    np.testing.assert_allclose(ends["master"], np.zeros(3), atol=1e-4)
    assert ends["bare"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(ends["bare"].astype(jnp.float32), np.ones(3))


def test_the_loss_computes_in_the_compute_dtype_and_sums_in_float32():
    seen = {}

    def looking(params, model_state, batch, rng):
        seen["dtypes"] = params["in"].dtype, batch["x"].dtype, batch["id"].dtype
        # 256 + 1 is 256 in bfloat16: added up there, the ones would be lost.
        total = (params["in"].sum() * 0 + batch["x"].sum()).astype(jnp.bfloat16)
        return trainkit.Loss(total, 1.0)

    step = trainkit.make_train_step(looking, TX, precision="bfloat16", microbatches=4)
    x = np.array([256, 1, 1, 1], np.float32)
    _, metrics = step(fresh(), {"x": x, "id": np.arange(4, dtype=np.int32)})
    assert seen["dtypes"] == (jnp.bfloat16, jnp.bfloat16, jnp.int32)
    assert float(metrics["loss"]) * 4 == 259


def test_half_precision_parameters_have_an_optimizer_state_of_their_own_dtype():
    tx = optax.adam(1e-3)
    precision = trainkit.Precision(param=jnp.bfloat16)
    step = trainkit.make_train_step(loss_fn, tx, precision=precision, placement="jit")
    state = step.place(fresh(tx))
    assert state.opt_state[0].mu["in"].dtype == jnp.bfloat16
    batch = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), make_batches(1)[0])
    state, metrics = step(state, batch)
    assert state.params["in"].dtype == jnp.bfloat16
    assert metrics["loss"].dtype == jnp.float32


def test_dynamic_loss_scaling_finds_a_scale_and_keeps_small_gradients():
    # ∂L/∂w = 1e-6 · x / 64 underflows in float16 (the least is 6e-8) unless it is scaled.
    def tiny(params, model_state, batch, rng):
        value = (params["w"] * jnp.asarray(1e-6, params["w"].dtype) * batch["x"]).sum()
        return trainkit.Loss(value, 64.0)

    tx = optax.sgd(1.0)
    scaling = trainkit.LossScale(initial=2.0**18, interval=3)
    precision = trainkit.Precision(compute=jnp.float16, param=jnp.float32, loss_scale=scaling)
    step = trainkit.make_train_step(tiny, tx, precision=precision)
    state = step.place(trainkit.TrainState.create({"w": jnp.ones(2)}, tx))
    batch = {"x": np.array([1 / 64, 1 / 64], np.float32)}
    scales, skipped = [], []
    for _ in range(9):
        state, metrics = step(state, batch)
        scales.append(float(metrics["loss_scale"]))
        skipped.append(int(metrics["skipped_steps"]))
    # 2¹⁸ and 2¹⁷ are infinite in float16 (at most 65504) and so is 2¹⁶; then three good steps at
    # 2¹⁵, one failure at 2¹⁶, and so on.
    assert scales == [2.0**n for n in (18, 17, 16, 15, 15, 15, 16, 15, 15)]
    assert skipped == [1, 2, 3, 3, 3, 3, 4, 4, 4]
    # 1e-6 is 1.0133e-6 in float16.
    want = 1 - 5 * float(np.float16(1e-6)) / 64 / 64
    np.testing.assert_allclose(state.params["w"], np.full(2, want), rtol=1e-6)


def test_a_constant_loss_scale_leaves_the_numbers_alone(after_20):
    precision = trainkit.Precision(loss_scale=1024.0)
    step = trainkit.make_train_step(loss_fn, TX, precision=precision)
    state = step.place(fresh())
    for batch in make_batches(20):
        state, _ = step(state, batch)
    assert relative(state.params, after_20) < 1e-6


# -- the compiled program --------------------------------------------------------------------


def reductions(text):
    """(inside a loop?, name) for each reduction over devices in an HLO text."""
    loops, found, inside = set(), [], ""
    for line in text.splitlines():
        if " while(" in line:
            loops.add(line.split("body=%")[1].split(",")[0].split(" ")[0])
    for line in text.splitlines():
        if line[:1] not in ("", " ", "}"):
            inside = line.split()[0].lstrip("%")
        for name in ("all-reduce", "reduce-scatter"):
            if f" {name}(" in line or f" {name}-start(" in line:
                found.append((inside in loops, name))
    assert loops, "there is no loop over micro-batches to look into"
    return found


@pytest.mark.parametrize("placement", ["pmap", "shard_map", "jit", "fsdp"])
def test_accumulation_reduces_once_and_after_the_loop(placement):
    step = trainkit.make_train_step(
        loss_fn, optax.adam(1e-3), placement=PLACEMENTS[placement], microbatches=4
    )
    found = reductions(step.compile(fresh(optax.adam(1e-3)), make_batches(1)[0]).as_text())
    assert found
    assert not any(inside for inside, _ in found)
    if placement != "fsdp":
        assert [name for _, name in found] == ["all-reduce"]


def test_a_weight_that_is_known_when_compiling_is_not_reduced_over_devices():
    def loss_fn(params, model_state, batch, rng):
        weight = batch["weight"].sum() if "weight" in batch else len(batch["x"])
        return trainkit.Loss((batch["x"] @ params["w"]).sum(), weight)

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx, placement="shard_map", norms=False)
    state = trainkit.TrainState.create({"w": jnp.ones(3)}, tx)
    batch = {"x": np.ones((16, 3), np.float32)}
    reduced, losses = [], []
    for each in (batch, batch | {"weight": np.ones(16, np.float32)}):
        text = step.compile(step.place(state), each).as_text()
        line = next(line for line in text.splitlines() if " all-reduce(" in line)
        reduced.append(line.split(" all-reduce(")[0].count("f32["))
        losses.append(float(step(step.place(state), each)[1]["loss"]))
    assert reduced == [2, 3]  # the gradient and the loss; the weight too
    assert losses[0] == losses[1] == 3


def test_fsdp_holds_an_eighth_of_the_state_on_each_device():
    tx = optax.adam(1e-3)
    params = {"a": jnp.ones((256, 512)), "b": jnp.ones((512, 64)), "small": jnp.ones(8)}

    def wide(params, model_state, batch, rng):
        out = jnp.tanh(batch["x"] @ params["a"]) @ params["b"]
        return trainkit.Loss((out * params["small"].sum()).sum(), len(out))

    batch = {"x": np.ones((8, 256), np.float32)}
    size = {}
    for placement in ("jit", "fsdp"):
        step = trainkit.make_train_step(wide, tx, placement=placement)
        compiled = step.compile(trainkit.TrainState.create(params, tx), batch)
        # One example of 256 floats a device is the batch's share of the arguments.
        size[placement] = compiled.memory_analysis().argument_size_in_bytes - 4 * 256
        assert size[placement] > 0
    assert size["fsdp"] <= 1.1 / 8 * size["jit"]


# -- what is refused, before anything is compiled ----------------------------------------------


def refused(match, loss=loss_fn, tx=TX, state=None, batch=None, error=ValueError, **options):
    step = trainkit.make_train_step(loss, tx, **options)
    batch = make_batches(1)[0] if batch is None else batch
    with pytest.raises(error, match=match):
        step(fresh(tx) if state is None else state, batch)
    assert step.compiles == 0


def test_a_batch_that_does_not_divide():
    refused(
        r"32 examples .* 8 devices × 3 microbatches = 24 .* batch of 24 or 48",
        placement="jit",
        microbatches=3,
    )
    refused(r"12 examples", batch=make_batches(1, size=12)[0], placement="pmap")


def test_a_batch_whose_leaves_differ():
    batch = make_batches(1)[0]
    refused(r"batch/y has 16 examples", batch={**batch, "y": batch["y"][:16]})
    refused(r"batch/x must be an array, not str", batch={**batch, "x": "cat"}, error=TypeError)
    refused(r"batch/y has shape \(\)", batch={**batch, "y": np.float32(1)})
    refused(r"no arrays", batch={})


def test_a_batch_without_the_axis_of_steps():
    refused(r"steps_per_call=3 every leaf must be \[3, examples", steps_per_call=3)


@pytest.mark.parametrize("bad", [jnp.arange(3), jnp.ones(3, bool), "relu", 1.0])
def test_parameters_that_are_not_floating_arrays(bad):
    params = {**make_params(), "layer": {"bad": bad}}
    with pytest.raises(TypeError, match=r"params/layer/bad is .* must be a floating array"):
        trainkit.TrainState.create(params, TX)
    with pytest.raises(TypeError, match="params/layer/bad"):
        trainkit.make_train_step(loss_fn, TX).place(fresh(params=params))


def changing(change):
    init = lambda params: {"a": {"count": jnp.zeros((), jnp.int32)}}
    return optax.GradientTransformation(init, lambda g, s, p=None: (g, change(s)))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: {**s, "b": 1.0}, "for opt_state/b, which must be nothing"),
        (lambda s: {"a": {}}, "returns nothing for opt_state/a/count"),
        (
            lambda s: {"a": {"count": s["a"]["count"] + jnp.ones(2, jnp.int32)}},
            r"int32\[2\] for opt_state/a/count, which must be int32\[\]",
        ),
        (
            lambda s: {"a": {"count": 1.5 * s["a"]["count"]}},
            r"float32\[\] for opt_state/a/count, which must be int32",
        ),
    ],
)
def test_a_transform_whose_state_changes(change, match):
    refused(match, tx=changing(change))


@pytest.mark.parametrize(
    ("loss", "match", "error"),
    [
        (lambda p, *_: p["in"].sum(), "loss has no weight", TypeError),
        (lambda p, *_: (p["in"].sum(), {}), "loss has no weight", TypeError),
        (lambda p, *_: trainkit.Loss(p["in"].sum(0), 1.0), r"total has shape \(32,\)", ValueError),
        (lambda p, *_: trainkit.Loss(p["in"].sum(), None), "no weight", TypeError),
        (
            lambda p, _, b, __: trainkit.Loss(p["in"].sum(), b["weight"]),
            r"weight has shape \(32,\)",
            ValueError,
        ),
        (
            lambda p, *_: trainkit.Loss(p["in"].sum().astype(jnp.int32), 1.0),
            "int32, but it must be floating",
            TypeError,
        ),
        (
            lambda p, *_: trainkit.Loss(p["in"].sum(), 1.0, {"mean": jnp.ones(2)}),
            r"the loss returns float32\[2\] for model_state/mean",
            ValueError,
        ),
        (
            lambda p, *_: trainkit.Loss(p["in"].sum(), 1.0, None, {"grad_norm": 1.0}),
            "the step itself reports 'grad_norm'",
            ValueError,
        ),
        (
            lambda p, *_: trainkit.Loss(p["in"].sum(), 1.0, None, {"hits": jnp.ones(3)}),
            "metric 'hits' must be a scalar",
            ValueError,
        ),
    ],
)
def test_a_loss_that_cannot_be_summed(loss, match, error):
    refused(match, loss=loss, error=error)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"placement": "shardmap"}, "did you mean 'shard_map'"),
        ({"placement": "FSDP"}, "did you mean 'fsdp'"),
        ({"placement": "jit", "devices": 9}, "devices=9, but there are 8"),
        ({"placement": "jit", "devices": 0}, "devices must be an integer of at least 1, not 0"),
        ({"devices": 2}, '"single" runs on one device'),
        ({"precision": "bfloat"}, "did you mean 'bfloat16'"),
        ({"microbatches": 0}, "microbatches must be an integer of at least 1"),
        ({"steps_per_call": 2.0}, "steps_per_call must be an integer"),
        ({"skip_nonfinite": -1}, "skip_nonfinite must be"),
        ({"norms": "yes"}, "norms must be"),
        ({"microbatch": 2}, "microbatch.*did you mean 'microbatches'"),
    ],
)
def test_an_unknown_option_or_value(options, match):
    with pytest.raises((ValueError, TypeError), match=match):
        trainkit.make_train_step(loss_fn, TX, **options)


def test_a_schedule_takes_no_name_that_the_step_reports_itself():
    with pytest.raises(ValueError, match="schedules: the step itself reports 'loss'"):
        trainkit.make_train_step(
            lambda *_: None, optax.sgd(1.0), schedules={"loss": optax.constant_schedule(0.0)}
        )


def test_what_is_no_loss_transform_or_placement():
    with pytest.raises(TypeError, match="loss_fn must be a function"):
        trainkit.make_train_step(None, TX)
    with pytest.raises(TypeError, match="init and update"):
        trainkit.make_train_step(loss_fn, 1e-3)
    with pytest.raises(TypeError, match="placement must be a name"):
        trainkit.make_train_step(loss_fn, TX, placement=3)
    with pytest.raises(TypeError, match=r"state must be a trainkit\.TrainState, not dict"):
        trainkit.make_train_step(loss_fn, TX)({"params": 1}, make_batches(1)[0])
