"""Of a checkpoint what fits, into anything: parts, heads, optimizers, dtypes, places, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
import trainkit.transforms as tt
from benchmarks.reliability import inputs
from benchmarks.reliability.mistakes import restoring
from tests.loop.test_checkpoint import assert_bitwise, flip, largest
from trainkit import TrainState, checkpoint, growth
from trainkit.loop.checkpoint import Checkpointer, CheckpointError

TX = optax.adamw(1e-2)
SILENT = {"say": lambda text: None}


def params(head=3, seed=0, width=4):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)
    layers = [{"up": draw(4, width), "down": draw(width, 4)} for _ in range(2)]
    return {"body": {"layers": layers, "in": draw(5, 4)}, "head": draw(4, head)}


def net(p, x):
    x = x @ p["body"]["in"]
    for layer in p["body"]["layers"]:
        x = x + jnp.tanh(x @ layer["up"]) @ layer["down"]
    return x @ p["head"]


def loss_fn(p, model_state, batch, rng):
    return trainkit.Loss((net(p, batch) ** 2).sum(), len(batch))


BATCH = np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """(folder, state): three steps of AdamW, as they lay on eight devices."""
    step = trainkit.make_train_step(loss_fn, TX, placement="fsdp")
    state = step.place(
        TrainState.create(params(), TX, model_state={"seen": jnp.float32(2)}, rng=jax.random.key(5))
    )
    for _ in range(3):
        state, _ = step(state, BATCH)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    checkpoint.save(folder, state, info={"note": "here"})
    return folder, jax.device_get(jax.tree.map(lambda x: x, state))


def equal(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_parameters_alone_come_without_anything_to_put_them_in(saved):
    folder, state = saved
    found = checkpoint.restore(folder, only="params", **SILENT)
    equal(found.state, state.params)  # lists are lists again
    assert isinstance(found.state["body"]["layers"], list)
    assert found.info["note"] == "here"
    assert found.taken["body/in"] == "params/body/in"
    equal(checkpoint.restore(folder, only="params/body/layers", **SILENT).state,
          state.params["body"]["layers"])  # fmt: skip
    part = checkpoint.restore(folder, only=["params/.*/up", "step"], **SILENT).state
    assert part["step"] == 3
    assert part["params"]["body"]["layers"][1].keys() == {"up"}
    # From the folder of the run, into parameters, and into a state whose rest stays.
    equal(checkpoint.restore(folder.parent, params(seed=9), only="params", **SILENT).state,
          state.params)  # fmt: skip
    fresh = TrainState.create(params(seed=9), TX)
    into = checkpoint.restore(folder, fresh, only="params", **SILENT)
    equal(into.state.params, state.params)
    equal(into.state.opt_state, fresh.opt_state)
    assert int(into.state.step) == 0
    assert set(into.kept) == {"step", "rng", *(n for n in into.kept if n.startswith("opt_state/"))}


def test_a_transformation_is_enough_for_the_whole_state(saved, capsys):
    folder, state = saved
    found = checkpoint.restore(folder, tx=TX)
    assert_bitwise(found.state, jax.tree.map(jnp.asarray, state))
    assert f"step 0 of {folder}: 22 of 22 leaves taken." in capsys.readouterr().out


def test_what_was_taken_and_what_was_not_is_printed(saved, capsys):
    folder, state = saved
    other = TrainState.create(params(head=7), TX)
    with pytest.raises(
        CheckpointError, match=r"params/head: float32\[4, 3\] in the checkpoint"
    ) as e:
        checkpoint.restore(folder, other, **SILENT)
    assert "fresh='params/head'" in str(e.value)
    assert "tx=" in str(e.value)
    found = checkpoint.restore(folder, other, fresh="params/head", tx=TX)
    assert capsys.readouterr().out.splitlines() == [
        f"Restored step 0 of {folder}: 18 of 22 leaves taken.",
        "  not taken:",
        "    params/head",
        "    model_state/seen",
        "    opt_state/0/mu/head",
        "    opt_state/0/nu/head",
        "  not from the checkpoint:",
        "    params/head",
        "  initialised by tx:",
        "    opt_state/0/mu/head",
        "    opt_state/0/nu/head",
    ]
    equal(found.state.params["body"], state.params["body"])
    equal(found.state.params["head"], other.params["head"])
    equal(found.state.opt_state[0].mu["body"], state.opt_state[0].mu["body"])
    assert not found.state.opt_state[0].nu["head"].any()
    assert int(found.state.opt_state[0].count) == 3


def test_renamed_parameters_bring_their_moments(saved):
    folder, state = saved
    mine = lambda p: {"trunk": p["body"], "head": p["head"]}
    other = TrainState.create(mine(params(seed=9)), TX, model_state={"seen": jnp.float32(0)})
    with pytest.raises(CheckpointError, match=r'rename=\{"its/name/there"'):
        checkpoint.restore(folder, other, **SILENT)
    found = checkpoint.restore(folder, other, rename={"params/body": "params/trunk"}, **SILENT)
    equal(found.state.params, mine(state.params))
    equal(found.state.opt_state[0].nu, mine(state.opt_state[0].nu))
    assert found.left == ()
    by_groups = {"params/(body)/(.*)": r"params/trunk/\2"}
    only = checkpoint.restore(folder, other, only="params/(body)", rename=by_groups, **SILENT).state
    equal(only.params["trunk"], state.params["body"])
    equal(only.params["head"], other.params["head"])
    with pytest.raises(ValueError, match="the same name params/x"):
        checkpoint.restore(folder, rename={"params/.*": "params/x"}, **SILENT)


@pytest.mark.parametrize(
    ("tx", "kept"),
    [
        (optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-3)), True),
        (tt.average_params(optax.adam(1e-3)), True),
        (optax.sgd(0.1, momentum=0.9), False),
        (optax.lion(1e-3), False),
    ],
    ids=["in a chain", "averaged", "momentum", "lion"],
)
def test_another_optimizer_goes_on_from_what_fits(saved, tx, kept):
    folder, state = saved
    found = checkpoint.restore(folder, TrainState.create(params(seed=9), tx), tx=tx, **SILENT)
    adam = [x for x in jax.tree.leaves(found.state.opt_state, is_leaf=lambda x: hasattr(x, "nu"))
            if hasattr(x, "nu")]  # fmt: skip
    for node in adam:
        equal(node, state.opt_state[0])
    assert bool(adam) == kept
    assert bool(found.begun) == (not kept or hasattr(found.state.opt_state, "average"))
    if hasattr(found.state.opt_state, "average"):  # that of the restored ones, not of `into`
        equal(tt.averaged(found.state), state.params)
    step = trainkit.make_train_step(loss_fn, tx)
    new, _ = step(found.state, BATCH)
    assert int(new.step) == 4


def test_dtypes_change_when_that_is_asked_for(saved):
    folder, state = saved
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), state.params)
    with pytest.raises(CheckpointError, match=r"params/head.*|cast=True"):
        checkpoint.restore(folder, half, only="params", **SILENT)
    found = checkpoint.restore(folder, half, only="params", cast=True, **SILENT)
    equal(found.state, half)
    assert found.cast["head"] == ("float32", "bfloat16")
    equal(checkpoint.restore(folder, only="params", cast="bfloat16", **SILENT).state, half)
    whole = jax.tree.map(lambda x: x.astype(jnp.int32), state.params)
    with pytest.raises(CheckpointError, match="float32 in the checkpoint, int32 wanted"):
        checkpoint.restore(folder, whole, only="params", cast=True, **SILENT)
    with pytest.raises(ValueError, match="pass cast=True"):
        checkpoint.restore(folder, half, only="params", cast="float16", **SILENT)


def test_another_number_of_devices_and_another_placement(saved):
    folder, state = saved
    for placement, devices in (("jit", 2), ("fsdp", 4)):
        step = trainkit.make_train_step(loss_fn, TX, placement=placement, devices=devices)
        like = step.place(
            TrainState.create(params(seed=9), TX, model_state={"seen": jnp.zeros(())})
        )
        found = checkpoint.restore(folder, like, **SILENT).state
        assert_bitwise(found, jax.tree.map(jnp.asarray, state))
        where = lambda tree: [leaf.sharding for leaf in jax.tree.leaves(tree)]
        assert where(found) == where(like)
        step(found, BATCH)  # which refuses a leaf that lies elsewhere


def test_into_a_bigger_model_by_a_growth(saved):
    folder, state = saved
    small, big = params(), params(seed=9, width=8)
    way = growth.plan(net, net, small, big, BATCH).realise(jax.random.key(0))
    model_state = {"seen": jnp.float32(0)}
    into = TrainState.create(big, TX, model_state=model_state)
    found = checkpoint.restore(folder, into, tx=TX, grow=way, **SILENT)
    want = way.params(jax.tree.map(jnp.asarray, state.params))
    equal(found.state.params, want)
    equal(found.state.opt_state, way.opt_state(TX, state.opt_state, state.params, want))
    assert int(found.state.step) == 3
    assert found.grown["params/body/layers/0/up"] == ([4, 4], [4, 8])
    np.testing.assert_allclose(
        net(found.state.params, BATCH), net(state.params, BATCH), rtol=1e-4, atol=1e-5
    )
    # Parameters alone; a function of the state; into a subtree of what is given.
    equal(checkpoint.restore(folder, only="params", grow=way, **SILENT).state, want)
    equal(checkpoint.restore(folder, big, only="params", grow=way, **SILENT).state, want)
    by_hand = lambda s: s.replace(params=way.params(s.params))
    alone = TrainState.create(big, optax.sgd(0.1, momentum=0.9), model_state=model_state)
    grown = checkpoint.restore(folder, alone, tx=TX, grow=by_hand, fresh="opt_state", **SILENT)
    equal(grown.state.params, want)
    part = checkpoint.restore(folder, alone, only="params", grow=way, **SILENT)
    equal(part.state.params, want)
    assert "params/body/layers/1/down" in part.grown
    with pytest.raises(ValueError, match="needs tx="):
        checkpoint.restore(folder, into, grow=way, **SILENT)


def test_requests_that_mean_nothing_are_named(saved):
    folder, state = saved
    with pytest.raises(
        ValueError, match=r"only='parms'.* in the checkpoint of .*did you mean 'params'\?.*Names at"
    ):
        checkpoint.restore(folder, only="parms", **SILENT)
    with pytest.raises(ValueError, match=r"fresh='params/hd' matches the start of no leaf"):
        checkpoint.restore(folder, TrainState.create(params(), TX), fresh="params/hd", **SILENT)
    with pytest.raises(CheckpointError, match=r"looks like params only.*only='params'"):
        checkpoint.restore(folder, params(), **SILENT)
    with pytest.raises(CheckpointError, match="no checkpoint of step 7"):
        checkpoint.restore(folder, step=7, **SILENT)
    shapes = jax.eval_shape(lambda: TrainState.create(params(), TX))
    with pytest.raises(CheckpointError, match=r"step is not taken .* has only its shape"):
        checkpoint.restore(folder, shapes, only="params", **SILENT)
    equal(checkpoint.restore(folder, shapes, **SILENT).state.params, state.params)


def test_a_damaged_step_is_passed_over_and_that_is_said(tmp_path):
    with Checkpointer(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, {"w": jnp.full(500, step), "b": jnp.float32(step)})
    flip(largest(tmp_path / "2"))
    said = []
    found = checkpoint.restore(tmp_path, say=said.append)
    assert (found.step, found.state["b"]) == (1, 1)
    assert "step 2" in said[0]
    assert "damaged" in said[0]


def test_every_bad_option_is_named():
    wrong = {name: inputs.attempt(m) for name, m in restoring.mistakes().items()}
    assert {name: o for name, o in wrong.items() if o.verdict != "named"} == {}
