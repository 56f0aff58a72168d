"""Checkpoints: bitwise, kept by count and score, and honest about what does not fit."""

import os
import shutil
import threading
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import trainkit.loop.checkpoint
from trainkit import TrainState
from trainkit._core.identity import digest
from trainkit.loop.checkpoint import Checkpointer, CheckpointError, DamagedError
from trainkit.loop.saved.info import is_changed

RNG = np.random.default_rng(0)


def make_state(width=3, seed=0):
    rng = np.random.default_rng(seed)
    params = {
        "a/b": {"kernel": jnp.asarray(rng.normal(size=(4, width)), jnp.float32)},
        "half": jnp.asarray(rng.normal(size=(5,)), jnp.bfloat16),
    }
    tx = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    model_state = {"stats": {"mean": jnp.asarray(rng.normal(size=width), jnp.float32)}}
    return TrainState.create(params, tx, model_state=model_state, rng=jax.random.key(seed + 5))


def words(leaf):
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    return leaf.dtype, leaf.shape, np.asarray(leaf).tobytes()


def assert_bitwise(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert words(a) == words(b)


def test_a_train_state_comes_back_bitwise_with_its_info(tmp_path):
    state = make_state(seed=1)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(7, state, info={"data": [2, 40], "config": {"lr": 0.1}})
    with Checkpointer(tmp_path) as checkpoints:
        restored, info = checkpoints.restore(like=make_state(seed=2))
    assert_bitwise(restored, state)
    assert isinstance(restored, TrainState)
    assert info["data"] == [2, 40]
    assert info["config"] == {"lr": 0.1}
    assert info["_versions"]["jax"] == jax.__version__


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_random_keys_keep_their_kind_and_draw_the_same(tmp_path, impl):
    state = {"keys": jax.random.split(jax.random.key(3, impl=impl), 4)}
    trainkit.checkpoint.save(tmp_path, state)
    like = {"keys": jax.random.split(jax.random.key(0, impl=impl), 4)}
    restored = trainkit.checkpoint.restore(tmp_path, like).state
    assert restored["keys"].dtype == state["keys"].dtype
    assert_bitwise(restored, state)
    np.testing.assert_array_equal(
        jax.random.normal(restored["keys"][1]), jax.random.normal(state["keys"][1])
    )


def test_odd_leaves_come_back_as_they_were(tmp_path):
    state = {
        "empty": jnp.zeros((0, 3), jnp.bfloat16),
        "scalar": jnp.float32(2.5),
        "host": np.arange(3, dtype=np.int64) + 2**40,
        "number": 4,
        "nothing": None,
        "flag": jnp.array([True, False]),
        "tuple": (optax.EmptyState(), jnp.int8(-3)),
    }
    trainkit.checkpoint.save(tmp_path, state)
    like = jax.tree.map(lambda x: x * 0 if not hasattr(x, "dtype") else np.zeros_like(x), state)
    restored = trainkit.checkpoint.restore(tmp_path, like).state
    assert type(restored["number"]) is int
    assert restored["number"] == 4
    assert isinstance(restored["host"], np.ndarray)
    assert restored["empty"].dtype == jnp.bfloat16
    assert jax.tree.structure(restored) == jax.tree.structure(state)
    jax.tree.map(np.testing.assert_array_equal, restored, state)
    assert restored["host"].dtype == np.int64


def test_restored_arrays_get_the_shardings_asked_for(tmp_path):
    values = RNG.normal(size=(8, 6)).astype(np.float32)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = {
        "w": jax.device_put(values, rows),
        "rng": jax.device_put(jax.random.key(1), everywhere),
    }
    trainkit.checkpoint.save(tmp_path, state)
    for sharding in (rows, everywhere, jax.sharding.SingleDeviceSharding(jax.devices()[3])):
        like = {
            "w": jax.ShapeDtypeStruct((8, 6), jnp.float32, sharding=sharding),
            "rng": state["rng"],
        }
        restored = trainkit.checkpoint.restore(tmp_path, like).state
        assert restored["w"].sharding.is_equivalent_to(sharding, 2)
        assert restored["rng"].sharding.is_equivalent_to(everywhere, 0)
        np.testing.assert_array_equal(restored["w"], values)


def test_the_state_may_be_donated_while_it_is_being_written(tmp_path):
    step = jax.jit(lambda w: w + 1, donate_argnums=0)
    state = jnp.zeros((512, 512))
    with Checkpointer(tmp_path, keep=20) as checkpoints:
        for n in range(10):
            checkpoints.save(n, {"w": state})
            state = step(state)
        for n in range(10):
            restored, _ = checkpoints.restore({"w": state}, step=n)
            assert (np.asarray(restored["w"]) == n).all()


def saved_scores(folder, scores, **options):
    with Checkpointer(folder, **options) as checkpoints:
        for step, score in scores.items():
            checkpoints.save(step, {"w": jnp.float32(step)}, score=score)
        checkpoints.wait()
        return checkpoints.steps, checkpoints.best


NAN = float("nan")


@pytest.mark.parametrize(
    ("options", "kept", "best"),
    [
        ({"keep": 1, "keep_best": 1}, [2, 6], 2),
        ({"keep": 2, "keep_best": 2}, [2, 4, 5, 6], 2),
        ({"keep": 1, "keep_best": 1, "mode": "max"}, [3, 6], 3),
        ({"keep": 3, "keep_best": 0}, [4, 5, 6], 4),
    ],
)
def test_the_latest_and_the_best_are_kept(tmp_path, options, kept, best):
    # Of the two with the score 1 the earlier is the best; NaN and none never are.
    scores = {1: NAN, 2: 1.0, 3: 9.0, 4: 1.0, 5: NAN, 6: None}
    assert saved_scores(tmp_path, scores, **options) == (kept, best)
    with Checkpointer(tmp_path, **options) as again:  # and so after a restart
        assert again.best == best
        assert again.latest == 6
        again.save(7, {"w": jnp.float32(7)})
        again.wait()
        assert best in again.steps or options["keep_best"] == 0


def test_a_folder_left_by_a_kill_holds_only_whole_checkpoints(tmp_path):
    saved_scores(tmp_path, {1: 1.0, 2: 2.0})
    unfinished = tmp_path / "3.orbax-checkpoint-tmp"
    unfinished.mkdir()
    (unfinished / "state").mkdir()
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.steps == [1, 2]
        checkpoints.save(3, {"w": jnp.float32(3)})
        checkpoints.wait()
        assert checkpoints.latest == 3


def test_a_state_that_differs_is_refused_leaf_by_leaf(tmp_path):
    trainkit.checkpoint.save(tmp_path, make_state(width=3))
    with pytest.raises(CheckpointError) as error:
        Checkpointer(tmp_path).restore(make_state(width=4))
    message = str(error.value)
    assert "params/a/b/kernel: float32[4, 3] in the checkpoint, float32[4, 4] wanted" in message
    assert "half" not in message
    other = TrainState.create(make_state().params, optax.sgd(0.1))
    with pytest.raises(CheckpointError, match="in the checkpoint, nothing wanted"):
        Checkpointer(tmp_path).restore(other)


def test_bad_requests_are_named(tmp_path):
    state = {"w": jnp.zeros(2)}
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        trainkit.checkpoint.restore(tmp_path / "nowhere", state)
    assert not (tmp_path / "nowhere").exists()
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.latest is None
        with pytest.raises(CheckpointError, match="There is no checkpoint in"):
            checkpoints.restore(state)
        checkpoints.save(4, state)
        with pytest.raises(CheckpointError, match=r"no checkpoint of step 3.*\[4\]"):
            checkpoints.restore(state, step=3)
        with pytest.raises(CheckpointError, match="step 4 would not come after"):
            checkpoints.save(4, state)
    for options in ({"keep": 0}, {"keep_best": -1}, {"mode": "lowest"}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Checkpointer(tmp_path, **options)


def test_importing_the_module_does_not_import_orbax():
    import subprocess
    import sys

    code = "import sys, trainkit.loop.checkpoint; print('orbax.checkpoint' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


# -- killed, damaged, read while it is written ------------------------------------------------


@pytest.fixture(scope="module")
def three_steps(tmp_path_factory):
    """A folder with the checkpoints of steps 1, 2 and 3, never to be changed; see `three`."""
    folder = tmp_path_factory.mktemp("three")
    with Checkpointer(folder, keep=9) as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, numbered(step), info={"mine": step})
    return folder


@pytest.fixture
def three(three_steps, tmp_path):
    return shutil.copytree(three_steps, tmp_path / "three")


def numbered(step):
    noise = np.random.default_rng(step).normal(size=(64, 64))
    return {"noise": jnp.asarray(noise, jnp.float32), "step": jnp.int32(step)}


def largest(folder):
    return max((f for f in folder.rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)


def flip(file, at=0.5):
    content = bytearray(file.read_bytes())
    content[int(at * len(content))] ^= 4
    file.write_bytes(content)


DAMAGE = {
    "flipped near the start": lambda step: flip(largest(step), 0.1),
    "flipped near the end": lambda step: flip(largest(step), 0.9),
    "cut": lambda step: os.truncate(largest(step), 5000),
    "emptied": lambda step: largest(step).write_bytes(b""),
    "a file less": lambda step: largest(step).unlink(),
    "info flipped": lambda step: flip(step / "info" / "0.json"),
    "info of another shape": lambda step: (step / "info" / "0.json").write_text("[]"),
    "half deleted": lambda step: shutil.rmtree(step / "info"),
    "no arrays": lambda step: shutil.rmtree(step / "state"),
    "empty": lambda step: [shutil.rmtree(step), step.mkdir()],
    "of another step": lambda step: [
        shutil.rmtree(step), shutil.copytree(step.parent / "1", step)
    ],
    "arrays of another step": lambda step: [
        shutil.rmtree(step / "state"), shutil.copytree(step.parent / "1/state", step / "state")
    ],
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_named_and_the_newest_that_is_whole_is_used(three, damage):
    DAMAGE[damage](three / "3")
    with pytest.raises(DamagedError, match=r"The checkpoint of step 3 in .* is damaged"):
        Checkpointer(three).restore(numbered(0), step=3)
    checkpoints = Checkpointer(three)
    with pytest.warns(match=r"step 3 in .* is damaged: .* The one of step 2 is used instead"):
        restored, info = checkpoints.restore(numbered(0))
    assert_bitwise(restored, numbered(2))
    assert info["mine"] == 2
    assert checkpoints.steps == [1, 2]


def test_a_damaged_step_that_nobody_asks_for_hides_no_other(three):
    shutil.rmtree(three / "1" / "info")
    flip(three / "2" / "info" / "0.json")
    restored, _ = Checkpointer(three).restore(numbered(0))
    assert_bitwise(restored, numbered(3))


def test_a_run_goes_on_over_a_damaged_step_which_is_put_aside(three):
    flip(largest(three / "3"))
    with Checkpointer(three, keep=2) as checkpoints:
        with pytest.warns(match="step 2 is used instead"):
            checkpoints.restore(numbered(0))
        checkpoints.save(3, numbered(33))
        checkpoints.wait()
        assert_bitwise(checkpoints.restore(numbered(0))[0], numbered(33))
    assert sorted(f.name for f in three.iterdir()) == ["2", "3", "damaged-3", "deleted"]


def test_where_nothing_is_whole_every_reason_is_given(three):
    for step in "123":
        flip(three / step / "info" / "0.json")
    with pytest.raises(DamagedError, match=r"(?s)step 3 .*step 2 .*step 1 in .* is damaged"):
        Checkpointer(three).info()


def test_reading_writes_nothing(three, tmp_path):
    (three / "4.orbax-checkpoint-tmp").mkdir()  # as of a save under way
    (three / "deleted" / "0").mkdir(parents=True)
    before = sorted(three.rglob("*"))
    checkpoints = Checkpointer(three)
    checkpoints.restore(numbered(0))
    assert (checkpoints.steps, checkpoints.info(2)["mine"]) == ([1, 2, 3], 2)
    checkpoints.close()
    assert sorted(three.rglob("*")) == before
    assert Checkpointer(tmp_path / "early").steps == []
    assert not (tmp_path / "early").exists()


def test_a_step_is_moved_away_whole_before_it_is_deleted(three, monkeypatch):
    """Whatever is killed while it deletes leaves no step half there."""
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)  # dies before the first file
    with Checkpointer(three, keep=1) as checkpoints:
        checkpoints.save(4, numbered(4))
    assert Checkpointer(three).steps == [4]
    monkeypatch.undo()
    with Checkpointer(three, keep=1) as checkpoints:
        checkpoints.sweep()
    assert list((three / "deleted").iterdir()) == []


@pytest.mark.parametrize("name", ["deleted", "6.orbax-checkpoint-tmp", "damaged-3"])
def test_nothing_is_deleted_through_a_link_that_somebody_planted(three, tmp_path_factory, name):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "precious").mkdir()
    (three / "3" / "info" / "0.json").write_text("")
    (three / name).symlink_to(elsewhere)
    with Checkpointer(three, keep=1) as checkpoints:
        with pytest.warns(match="step 3"):
            checkpoints.restore(numbered(0))
        checkpoints.save(7, numbered(7))
        checkpoints.save(8, numbered(8))
    assert (elsewhere / "precious").is_dir()
    assert sorted(elsewhere.iterdir()) == [elsewhere / "precious"]


def test_what_cannot_be_written_is_said_in_our_words_and_leaves_what_is_there(three, monkeypatch):
    def full(*args):
        raise OSError("No space left on device")

    monkeypatch.setattr("trainkit.loop.saved.info_handler.write_info", full)
    checkpoints = Checkpointer(three)
    checkpoints.save(4, numbered(4))
    with pytest.raises(CheckpointError, match=r"could not be written into .*No space left.*whole"):
        checkpoints.wait()
    checkpoints.close()
    assert_bitwise(Checkpointer(three).restore(numbered(0))[0], numbered(3))


def test_the_parts_of_an_array_are_checked_by_region():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))
    array = jax.device_put(np.arange(8.0), NamedSharding(mesh, PartitionSpec("data")))
    halves = {
        "0:4": digest(np.arange(4, dtype=np.float32)),
        "4:8": digest(np.float32([4, 5, 6, 7])),
    }
    assert not is_changed(array, halves)
    assert is_changed(array, halves | {"4:8": halves["0:4"]})


# -- what is kept, and what a save costs --------------------------------------------------------


def save_all(folder, steps, bad=(), **options):
    with Checkpointer(folder, **options) as checkpoints:
        for step in steps:
            checkpoints.save(step, {"w": jnp.float32(step)}, good=step not in bad)
    return Checkpointer(folder, **options).steps


def test_the_first_of_every_so_many_steps_is_kept_for_good(tmp_path):
    options = {"keep": 1, "keep_best": 0, "keep_every": 10}
    assert save_all(tmp_path, [4, 8, 12, 16, 20], **options) == [12, 20]
    assert save_all(tmp_path, [24, 28, 32, 36], **options) == [12, 20, 32, 36]  # a restart later


def test_the_first_of_every_so_many_seconds_is_kept_for_good(tmp_path, monkeypatch):
    now = iter([1000.0, 1030.0, 1061.0, 1119.0, 1122.0, 1130.0])
    clock = types.SimpleNamespace(time=lambda: next(now))  # Orbax has another
    monkeypatch.setattr("trainkit.loop.saved.info.time", clock)
    options = {"keep": 1, "keep_best": 0, "keep_seconds": 60}
    assert save_all(tmp_path, [1, 2, 3, 4], **options) == [1, 3, 4]
    assert save_all(tmp_path, [5, 6], **options) == [1, 3, 5, 6]


def test_the_last_good_checkpoint_is_never_deleted(tmp_path):
    assert save_all(tmp_path, [1, 2, 3, 4, 5], bad=(3, 4, 5), keep=2) == [2, 4, 5]
    assert save_all(tmp_path, [6], bad=(6,), keep=1) == [2, 6]  # it is remembered
    assert save_all(tmp_path, [7], keep=1) == [7]
    save_all(tmp_path, [8], keep=2)
    flip(largest(tmp_path / "8" / "state"))
    with Checkpointer(tmp_path, keep=1) as checkpoints:  # nor one that a damaged one came after
        checkpoints.save(9, {"w": jnp.float32(9)}, good=False)
        checkpoints.wait()
        assert 8 in checkpoints.steps  # not known to be damaged
    with Checkpointer(tmp_path, keep=1) as checkpoints, pytest.raises(DamagedError):
        checkpoints.restore({"w": jnp.float32(0)}, step=8)


def test_a_save_returns_before_anything_is_written_and_the_next_one_waits(tmp_path, monkeypatch):
    held, go = [], threading.Event()
    write = Checkpointer._save

    def slow(self, *args):
        held.append(threading.current_thread())
        go.wait(30)
        write(self, *args)

    monkeypatch.setattr(Checkpointer, "_save", slow)
    state = {"w": np.arange(5.0)}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, state)
        assert checkpoints.latest == 1
        assert not (tmp_path / "1").exists()
        state["w"][:] = 7  # what was given may be written over
        go.set()
        checkpoints.save(2, state)
        assert (tmp_path / "1").exists()
        assert checkpoints.restore(state, step=1)[0]["w"].tolist() == [0, 1, 2, 3, 4]
    assert threading.main_thread() not in held
