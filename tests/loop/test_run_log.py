"""Rows come late and none is lost; speed leaves out what is not training."""

import time

import jax.numpy as jnp
import numpy as np
import pytest

from trainkit._core.run_files import read_metrics
from trainkit.loop.metrics_log import MetricsLog
from trainkit.loop.record import Record
from trainkit.loop.run_log import RunLog, fetch


def test_a_row_is_written_when_the_next_is_due_or_on_flushing(tmp_path):
    with MetricsLog(tmp_path, tensorboard=False) as files:
        log = RunLog(files, Record())
        log.start_or_pause(Record(), 0.0)
        log.later(Record(step=10, examples=80), {"loss": jnp.float32(0.5)})
        assert read_metrics(tmp_path) == []
        log.later(Record(step=20, examples=160), {"loss": jnp.float32(0.25)})
        assert [row["step"] for row in read_metrics(tmp_path)] == [10]
        log.flush()
        log.flush()
    rows = read_metrics(tmp_path)
    assert [(row["step"], row["loss"], row["examples"]) for row in rows] == [
        (10, 0.5, 80),
        (20, 0.25, 160),
    ]
    assert log.latest["loss"] == 0.25


def test_speed_leaves_out_pauses(tmp_path):
    log = RunLog(None, Record())
    log.start_or_pause(Record(), 0.0)
    time.sleep(0.2)
    log.pause(0.15)
    log.later(Record(step=1, examples=100), {})
    log.flush()
    # 100 examples in at least .05 s; without the pause being left out at most 500 a second.
    assert 500 < log.latest["examples_per_second"] <= 100 / 0.05


def test_speed_is_from_row_to_row_whenever_rows_are_written():
    log, speeds = RunLog(None, Record()), []
    log.start_or_pause(Record(), 0.0)
    for row in range(1, 5):
        time.sleep(0.05)
        log.later(Record(step=row, examples=100 * row), {})
        if row != 2:
            log.flush()  # as before an evaluation: at once after the row
            speeds.append(log.latest["examples_per_second"])
    # Rows that were written at once after another took their 50 ms all the same.
    assert max(speeds) <= 100 / 0.05


def test_without_files_the_latest_is_known_all_the_same():
    log = RunLog(None, Record(train={"loss": 3.0}))
    assert log.latest == {"loss": 3.0}
    assert log.position is None
    log.write(Record(), "event", {"event": "x"})


def test_of_several_steps_a_call_the_last_counts():
    metrics = {"loss": jnp.array([3.0, 2.0]), "count": 4}
    assert fetch(metrics, "the step", steps=2) == {"loss": 2.0, "count": 4.0}
    flag = {"flag": True, "half": jnp.bfloat16(0.5), "one": np.ones((1, 1))}
    assert fetch(flag, "evaluate") == {"flag": 1.0, "half": 0.5, "one": 1.0}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"per_class": np.ones(3)}, r"evaluate gives the metric 'per_class' with shape \(3,\)"),
        ({"loss": "low"}, "evaluate must give names and numbers, not 'loss': 'low'"),
        ({"loss": None}, "evaluate must give names and numbers, not 'loss': None"),
        (0.5, "evaluate must give a dict of names and numbers, not 0.5"),
        (None, "evaluate must give a dict of names and numbers, not None"),
    ],
)
def test_what_is_no_metric_is_named(metrics, message):
    with pytest.raises((TypeError, ValueError), match=message):
        fetch(metrics, "evaluate")


@pytest.mark.parametrize("name", ["step", "kind", "epoch", "examples", "flops", "seconds"])
def test_a_metric_takes_no_name_that_every_row_has(tmp_path, name):
    with MetricsLog(tmp_path, tensorboard=False) as files:
        log = RunLog(files, Record(step=3))
        with pytest.raises(ValueError, match=f"evaluation: '{name}' is a reserved column"):
            log.write(Record(step=3), "evaluation", {name: 7})
    assert read_metrics(tmp_path) == []


@pytest.mark.parametrize(
    ("before", "step", "every", "crossed"),
    [
        (9, 10, 10, True),
        (10, 11, 10, False),
        (8, 12, 10, True),
        (0, 5, 5, True),
        (0, 5, None, False),
    ],
)
def test_multiples_are_reached_or_passed(before, step, every, crossed):
    assert Record(step=step, before=before).crossed(every) is crossed


def test_a_record_survives_json():
    import json

    from trainkit.loop.stopping import Best

    record = Record(step=3, best=Best(2, 0.5, {"loss": 0.5}, 1), evaluated_at=2, epoch=1.5)
    assert Record.from_json(json.loads(json.dumps(record.to_json()))) == record
