"""What a run says when it is slow for a reason that its user can mend, and how fast it was."""

import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import trainkit
from trainkit._core.run_files import read_metrics
from trainkit.cost import peak_flops, step_flops
from trainkit.data import waiting
from trainkit.loop import run_log


def parts():
    def loss_fn(params, model_state, batch, rng):
        return trainkit.Loss(((batch["x"] @ params["w"]) ** 2).sum(), len(batch["x"]))

    tx = optax.sgd(0.1)
    step = trainkit.make_train_step(loss_fn, tx)
    return step, trainkit.TrainState.create({"w": jnp.ones(3)}, tx)


def batch(size):
    return {"x": np.ones((size, 3), np.float32)}


def test_a_run_that_waits_for_data_says_so_once(monkeypatch, capsys):
    monkeypatch.setattr(waiting, "WINDOW", 0.2)

    def batches():
        for _ in range(60):
            time.sleep(0.02)
            yield batch(4)

    trainkit.fit(*parts(), batches())
    assert capsys.readouterr().out.count("the device waits for data") == 1


def test_drawing_counts_only_where_the_device_had_finished(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(waiting, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    busy, done = (SimpleNamespace(is_ready=lambda ready=ready: ready) for ready in (False, True))
    watch = waiting.Waiting()
    watch.drawn(9.0)  # before the first step
    for result, seconds in ((busy, 3.0), (done, 2.0), (busy, 3.0)):
        watch.dispatched(result)
        watch.drawn(seconds)
        now[0] += 1.5
        assert watch.share() is None
    now[0] = 8.0
    assert watch.share() == 2.0 / 8.0
    now[0] = 8.0 + waiting.WINDOW
    assert watch.share() == 0.0  # a window of its own


def test_a_step_that_compiles_again_says_which_shapes_changed(capsys):
    trainkit.fit(*parts(), [batch(n) for n in (8, 8, 5, 8, 3)])
    lines = [line for line in capsys.readouterr().out.splitlines() if "compiled again" in line]
    assert [line.split(" was ")[0] for line in lines] == ["Step 3", "Step 5"]
    assert "batch/x has float32[5, 3], and had float32[8, 3]." in lines[0]


def test_a_step_of_jit_says_so_too_and_no_more_than_three_times(capsys):
    step, state = parts()
    own = step.program
    trainkit.fit(jax.jit(own), step.place(state), [batch(n) for n in (8, 1, 2, 3, 4, 5)])
    assert capsys.readouterr().out.count("compiled again") == 3


def test_utilisation_is_flops_a_second_over_the_peak(monkeypatch, tmp_path):
    monkeypatch.setattr(run_log, "peak_flops", lambda devices: 1e9 * len(list(devices)))
    step, state = parts()
    flops = step_flops(step, step.place(state), batch(4))
    trainkit.fit(step, state, [batch(4)], steps=40, log_every=10, out=tmp_path, progress=False)
    rows = [row for row in read_metrics(tmp_path) if "mfu" in row]
    assert len(rows) >= 3
    for row in rows:
        assert row["mfu"] == pytest.approx(row["examples_per_second"] / 4 * flops / 1e9, rel=1e-6)


def test_peaks_are_those_of_the_devices_by_name():
    class Device:
        def __init__(self, kind):
            self.device_kind = kind

    h100, v5e = Device("NVIDIA H100 80GB HBM3"), Device("TPU v5 lite")
    assert peak_flops([h100, h100]) == 2 * 989e12
    assert peak_flops([v5e]) == 197e12
    assert peak_flops([h100, Device("of the future")]) is None
    assert peak_flops([]) is None
