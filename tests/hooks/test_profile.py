"""Traces of a few steps."""

import gzip
import json

import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit._core.run_files import read_metrics
from trainkit.hooks import Profile


def run(hooks, steps=6, **options):
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch - params["w"]) ** 2).sum(), len(batch))

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx)
    state = trainkit.TrainState.create({"w": jnp.zeros(())}, tx)
    data = [np.ones(4, np.float32)]
    return trainkit.fit(step, state, data, steps=steps, hooks=hooks, progress=False, **options)


def steps_in(folder):
    (trace,) = folder.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]
    return sorted(
        int(event["args"]["step_num"])
        for event in events
        if event.get("name") == "train" and "step_num" in event.get("args", {})
    )


def test_the_trace_has_the_steps_that_were_asked_for_and_the_log_says_so(tmp_path):
    run([Profile(2, 4, tmp_path / "trace")], out=tmp_path / "run", report=False)
    assert steps_in(tmp_path / "trace") == [2, 3]
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))
    (event,) = [row for row in read_metrics(tmp_path / "run") if row["kind"] == "event"]
    assert (event["event"], event["step"]) == ("profiled", 4)


@pytest.mark.parametrize("how", ["too few steps", "an error"])
def test_a_run_that_ends_earlier_writes_what_there_is_and_a_next_can_begin(tmp_path, how):
    def fails(now):
        if how == "an error" and now.steps == 4:
            raise KeyError("of a hook")

    def go():
        return run([Profile(3, 9, tmp_path / "trace"), fails], steps=5)

    if how == "an error":
        with pytest.raises(KeyError):
            go()
    else:
        go()
    assert steps_in(tmp_path / "trace") == ([3] if how == "an error" else [3, 4])
    run([Profile(0, 1, tmp_path / "next")], steps=2)
    assert steps_in(tmp_path / "next") == [0]


def test_what_is_typed_is_two_steps_in_order():
    assert (Profile.of("100:110", "x").first, Profile.of("100:110", "x").last) == (100, 110)
    for wrong in ("100", "110:100", "5:5", "a:b", "-1:4"):
        with pytest.raises(ValueError, match="such as 100:110"):
            Profile.of(wrong, "x")
    with pytest.raises(ValueError, match="must be after first=3"):
        Profile(3, 3, "x")
