"""The experiments that show rules and schedules, on settings small enough for a test."""

import pytest

from experiments.fine_tune import train as fine_tune
from experiments.linear_regression import train as linear_regression
from experiments.quadratic import train as quadratic
from experiments.schedules import train as schedules


def test_quadratic(tmp_path, capsys):
    ends = quadratic.run(quadratic.Config(steps=300, out=str(tmp_path)))
    assert all(loss < 4e-4 for loss in ends["x²"].values())
    assert ends["valley"]["momentum"] < 1e-8 < ends["valley"]["GD"] < 1e-3
    assert all(loss < 29 / 5 for loss in ends["Rosenbrock"].values())
    assert (tmp_path / "paths.png").stat().st_size > 10_000
    assert "within 1e-3" in capsys.readouterr().out


def test_linear_regression_recovers_the_closed_form(tmp_path):
    figure, victim = tmp_path / "fit.png", tmp_path / "victim"
    victim.write_text("somebody's own")
    figure.symlink_to(victim)
    found = linear_regression.run(linear_regression.Config(out=str(tmp_path)))
    slope, intercept = found["closed form"]
    assert (slope, intercept) == pytest.approx((2, 1), abs=0.3)
    for kind, (_, tolerance) in linear_regression.KINDS.items():
        assert found[kind] == pytest.approx((slope, intercept), abs=tolerance)
    assert figure.stat().st_size > 10_000
    assert victim.read_text() == "somebody's own"  # no figure is written through a link


@pytest.mark.slow
def test_schedules(tmp_path):
    config = schedules.Config(epochs=9, images=2400, hidden=32, out=str(tmp_path))
    found = schedules.run(config)
    assert set(found) == {"piecewise constant", "reduce on plateau", "step decay"}
    assert all(accuracy > 0.85 for accuracy in found.values())


@pytest.mark.slow
def test_fine_tune(tmp_path):
    config = fine_tune.Config(
        pretrain_epochs=1, steps=60, hidden=64, learning_rate=1e-2, out=str(tmp_path)
    )
    found = fine_tune.run(config)
    assert found["frozen body"] > 0.6
    assert found["everything"] > 0.7


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        (quadratic, {"steps": 0}, "--steps is 0"),
        (linear_regression, {"epochs": 0}, "--epochs is 0"),
        (schedules, {"batch_size": 0}, "--batch-size"),
        (fine_tune, {"examples": 0}, "--examples"),
    ],
)
def test_bad_options_are_named(experiment, options, message):
    with pytest.raises(ValueError, match=message):
        experiment.run(experiment.Config(**options))
