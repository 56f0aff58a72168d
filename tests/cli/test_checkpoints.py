"""`trainkit checkpoints`: what there is, what is whole, where two differ, out and in again."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import trainkit
from tests.cli.test_cli import main
from tests.loop.test_checkpoint import assert_bitwise, flip, largest, make_state
from trainkit import checkpoint
from trainkit.loop.checkpoint import Checkpointer


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run with checkpoints of steps 1, 2 and 3: 2 is 1 but for a parameter."""
    folder = tmp_path_factory.mktemp("run")
    state = make_state(seed=1)
    nudged = {**state.params, "half": state.params["half"].at[0].add(1)}
    with Checkpointer(folder / "checkpoints", keep=9) as checkpoints:
        checkpoints.save(1, state, score=0.25)
        checkpoints.save(2, state.replace(params=nudged))
        checkpoints.save(3, {"layers": [{"w": jnp.arange(500.0)}, {"w": jnp.float32(2)}]})
    return folder


def command(capsys, *arguments):
    return main(capsys, "checkpoints", *map(str, arguments))


def test_a_list_of_steps_scores_sizes_times_and_versions(run, capsys):
    status, out, _ = command(capsys, run)
    assert status == 0
    lines = [line.split() for line in out.splitlines()]
    rows = {line[0]: line for line in lines if line and line[0] in "123"}
    assert rows["1"][1] == "0.25"
    assert rows["2"][2] in ("kB", "B")
    assert rows["3"][3].startswith("20")
    assert f"jax {jax.__version__}" in out
    assert command(capsys, run / "checkpoints")[1] == out
    status, out, _ = command(capsys, run, "--leaves", "--step", 1, "--only", "params")
    assert "params/a/b/kernel float32 [4, 3]" in " ".join(out.split())
    assert "opt_state" not in out


def test_help_teaches_every_use(capsys):
    with pytest.raises(SystemExit):
        command(capsys, "--help")
    out = capsys.readouterr().out
    for word in ("--verify", "--compare 200 400", "--export mine.safetensors", "Exit status"):
        assert word in out


def test_verify_finds_what_listing_does_not(run, tmp_path, capsys):
    import shutil

    status, out, _ = command(capsys, run, "--verify")
    assert (status, out.count("every digest right")) == (0, 3)
    copy = shutil.copytree(run, tmp_path / "copy")
    flip(largest(copy / "checkpoints" / "3" / "state"))
    assert command(capsys, copy)[0] == 0
    status, out, _ = command(capsys, copy, "--verify")
    assert (status, out.count("every digest right")) == (1, 2)
    assert "step 3 in" in out


def test_compare_says_which_leaves_differ_and_by_how_much(run, capsys):
    status, out, _ = command(capsys, run, "--compare", 1, 2)
    [line] = [line for line in out.splitlines() if line.strip().startswith("params/half")]
    norm = float(jnp.linalg.norm(make_state(seed=1).params["half"].astype(jnp.float32)))
    largest_, relative = map(float, line.split()[-2:])
    assert largest_ == pytest.approx(1, rel=0.01)  # bfloat16
    assert relative == pytest.approx(largest_ / norm, rel=0.01)
    assert status == 1
    assert "9 leaves are the same to the last bit, 1 differ." in out
    assert command(capsys, run, "--compare", 1, f"{run}:1")[0] == 0
    status, out, _ = command(capsys, run, "--compare", 2, 3, "--only", "params/half")
    assert "nothing" in out
    assert command(capsys, run, "--compare", 1, 2, "--only", "model_state")[0] == 0


def test_out_into_safetensors_and_in_again(run, tmp_path, capsys):
    file = tmp_path / "one.safetensors"
    status, out, _ = command(capsys, run, "--export", file, "--step", 1)
    assert (status, "Wrote 10 leaves of step 1" in out) == (0, True)
    assert command(capsys, tmp_path / "new", "--import", file)[0] == 0
    state = make_state(seed=1)
    like = make_state(seed=2)
    for source in (tmp_path / "new", file):
        assert_bitwise(checkpoint.restore(source, like, say=lambda text: None).state, state)
    with pytest.raises(ValueError, match=r"step=1: .*one\.safetensors is a single file; omit step"):
        checkpoint.restore(file, like, step=1)
    # As others read it, and as others write it; lists stay lists.
    from safetensors.numpy import load_file, save_file

    command(capsys, run, "--export", file, "--only", "layers/0")
    np.testing.assert_array_equal(load_file(file)["layers/0/w"], np.arange(500.0))
    command(capsys, run, "--export", file)
    command(capsys, tmp_path / "lists", "--import", file, "--step", 7)
    back = checkpoint.restore(tmp_path / "lists", say=lambda text: None)
    assert back.step == 7
    assert isinstance(back.state["layers"], list)
    save_file({"model.embed.weight": np.ones((2, 3), np.float16)}, file)
    command(capsys, tmp_path / "theirs", "--import", file)
    into = {"embed": jnp.zeros((2, 3), jnp.float16)}
    rename = {"model/embed/weight": "embed"}
    for source in (tmp_path / "theirs", file):
        got = checkpoint.restore(source, into, rename=rename, say=lambda text: None)
        assert (got.state["embed"] == 1).all()


def test_what_cannot_be_done_is_said(run, tmp_path, capsys, monkeypatch):
    file = tmp_path / "x.safetensors"
    file.write_bytes(b"junk")
    for arguments, words in {
        (tmp_path / "nowhere",): "There is no checkpoint folder",
        (tmp_path,): "There is no checkpoint in",
        (run, "--step", 8): "There is no step 8; there are [1, 2, 3]",
        (run, "--leaves", "--step", 8): "There is no step 8 in",
        (run, "--leaves", "--step", 1, "--only", "parms"): "did you mean 'params'?",
        (run, "--compare", 1, tmp_path / "nowhere"): "There is no checkpoint folder",
        (run, "--export", tmp_path / "no" / "x.safetensors"): "could not be written",
        (tmp_path / "new", "--import", file): "not a safetensors file that can be read",
        (tmp_path / "new", "--import", tmp_path / "none"): "not a safetensors file",
        (run, "--import", file): "is not empty",
    }.items():
        status, _, err = command(capsys, *arguments)
        assert (status, words in err) == (2, True), (arguments, err)
    find = importlib.util.find_spec
    absent = lambda name, *more: None if name == "safetensors" else find(name, *more)
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    status, _, err = command(capsys, run, "--export", file)
    assert (status, "pip install 'trainkit[export]'" in err) == (2, True)
    trainkit.checkpoint.save(tmp_path / "four", {"w": jnp.zeros(3, jnp.int4)})
    monkeypatch.undo()
    status, _, err = command(capsys, tmp_path / "four", "--export", file)
    assert "w is int4, which safetensors does not have" in err
