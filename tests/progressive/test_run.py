"""A growing run as a whole: stages, ends, history, resuming, books, and what is refused."""

import json
import os
import signal

import jax
import numpy as np
import optax
import pytest

from tests.progressive import tiny
from trainkit.cost import count_flops
from trainkit.data import Sampler
from trainkit.growth.errors import GrowthError
from trainkit.progressive import triggers
from trainkit.progressive.stages.pace import LeafPace
from trainkit.progressive.stages.stage import Data, Stage, StageError

events = tiny.events
TWO = [Stage(4, triggers.steps(10)), Stage(8)]


def test_it_grows_when_the_trigger_fires_and_ends_when_the_budget_is_spent():
    result = tiny.run(TWO, steps=20)
    (growth,) = events(result, "growth")
    assert growth["step"] == 10
    assert growth["reason"] == "10 steps"
    assert result.model == 8
    assert result.state.params["in"].shape == (tiny.FEATURES, 8)
    assert result.ended == "budget spent: steps=20"
    assert not result.satisfied
    # Copying keeps the function; what is left is rounding of float32.
    assert growth["certificate"]["forward_error"]["float32"] < 5e-6
    assert growth["certificate"]["loss_after"] == pytest.approx(
        growth["certificate"]["loss_before"], abs=1e-6
    )
    json.dumps(list(result.history), allow_nan=False)


def test_it_ends_when_the_target_is_reached_and_says_so():
    result = tiny.run(TWO, steps=500, target=triggers.reaches("loss", 10.0))
    assert result.satisfied
    assert result.ended == "target reached: loss ≤ 10"
    assert result.fit.steps == 5  # the first evaluation
    assert result.evaluation["loss"] <= 10.0


@pytest.mark.parametrize(
    ("budget", "steps"), [({"examples": 16 * 12}, 12), ({"steps": 12}, 12), ({"epochs": 2}, 12)]
)
def test_every_budget_ends_it(budget, steps):
    result = tiny.run([Stage(4)], **budget)
    assert result.fit.steps == steps
    assert next(iter(budget)) in result.ended
    # Its evaluation is of the state that it ends with, whichever way it ended.
    again = result.prepared.evaluation(result.state)
    assert again == pytest.approx(dict(result.evaluation), rel=1e-6)


def test_a_budget_of_flops_counts_evaluations_too():
    result = tiny.run(TWO, flops=2e6, decay=0.0)
    assert "flops" in result.ended
    ledger = result.ledger
    one = result.prepared.flops_per_step + result.prepared.evaluation.flops
    assert 2e6 <= ledger.total <= 2e6 + 2 * one
    assert ledger.evaluate > 0
    assert ledger.train < 2e6


def test_the_ledger_adds_up_what_the_programs_cost():
    result = tiny.run(TWO, steps=20)
    small, big = (
        count_flops(jax.grad(loss), params) for loss, params in (_loss_of(4), _loss_of(8))
    )
    train = result.ledger.train
    parameters = [n * (tiny.FEATURES + tiny.CLASSES) for n in (4, 8)]
    # The step is the gradient, and an update and norms of some operations a parameter.
    assert 0.95 * 10 * (small + big) < train < 10 * (small + big) + 10 * 40 * sum(parameters)
    evaluations = 4
    per_evaluation = result.prepared.evaluation.flops
    assert result.ledger.evaluate == pytest.approx(evaluations * per_evaluation, rel=0.5)
    assert result.ledger.analytic == pytest.approx(6 * 16 * 10 * sum(parameters))
    # What the loop counted, and what its report shows, is the whole ledger.
    assert result.fit.flops == pytest.approx(result.ledger.total, rel=1e-9)


def test_the_end_says_whether_the_run_is_finished_evaluated_and_decayed():
    end = tiny.run(TWO, steps=20).history[-1]
    assert (end["finished"], end["evaluated"], end["rate_left"]) == (True, True, 0.0)
    assert tiny.run(TWO, steps=20, decay=0.0).history[-1]["rate_left"] == 1.0
    stop = lambda now: os.kill(os.getpid(), signal.SIGINT) if now.steps == 17 else None
    result = tiny.run(TWO, steps=20, hooks=[stop])
    end = result.history[-1]
    # It falls from step 16 to 20, and one more step was under way.
    assert (end["finished"], end["evaluated"], end["rate_left"]) == (False, False, 0.5)
    assert result.fit.flops == pytest.approx(result.ledger.total, rel=1e-9)


def _loss_of(width):
    model = tiny.build(width)
    batch = next(Sampler(tiny.arrays(), 16))
    key = jax.random.key(0)
    params, _ = model.init(key, model.inputs(batch))
    return lambda p: model(p, {}, batch, key).total, params


def test_data_grow_alone_and_with_the_model():
    stages = [
        Stage(4, triggers.steps(4), data=Data(subset=0.5, batch_size=8)),
        Stage(None, triggers.steps(4), data=Data(subset=96)),
        Stage(8, data=Data(batch_size=16)),
    ]
    result = tiny.run(stages, data=tiny.sampler, steps=12)
    assert [event["text"] == "only the data grow" for event in events(result, "growth")] == [
        True,
        False,
    ]
    assert result.fit.examples == 4 * 8 + 4 * 8 + 4 * 16


def test_each_step_is_compiled_once_whether_ahead_or_not():
    for ahead in (True, False):
        result = tiny.run(TWO, steps=20, ahead=ahead)
        (growth,) = events(result, "growth")
        assert result.prepared.step.compiles == 1
        if not ahead:
            assert not growth["compiled_ahead"]


def test_the_learning_rate_is_stable_then_decays_and_nothing_grows_meanwhile():
    late = triggers.steps(8) | triggers.reaches(
        "accuracy", 2.0
    )  # which may come earlier, for all we know
    stages = [Stage(4, triggers.steps(10)), Stage(8, late), Stage(16)]
    result = tiny.run(stages, steps=20, decay=0.2)
    (decay,) = events(result, "decay")
    assert decay["step"] == 16
    assert result.stage == 1  # the second growth would have come at step 18, in the decay
    assert int(result.state.opt_state.decay_at) == 16
    assert float(result.state.opt_state.hyperparams["pace"]) == pytest.approx(0.25)
    # The rate that is logged is the one in force: the last step's is a quarter of the rule's.
    sgd = tiny.run(stages, steps=20, decay=0.2, tx=optax.sgd(0.1))
    assert sgd.fit.metrics["learning_rate"] == pytest.approx(0.025)


def test_new_rates_begin_at_those_of_exact_continuation_and_rise():
    stages = [Stage(4, triggers.steps(10)), Stage(8, anneal=100)]
    result = tiny.run(stages, steps=11, decay=0.0)
    pace = result.state.opt_state
    assert float(LeafPace.of(pace.leaves["out"]).start) == 0.5
    assert float(LeafPace.of(pace.leaves["in"]).start) == 1.0
    assert int(pace.ramp_at) == 10


def test_without_layers_of_its_own_a_growth_knows_no_parametrisation():
    with pytest.raises(StageError, match=r"mup='adam'.*leave mup out"):
        tiny.run([Stage(4, triggers.steps(10)), Stage(8, mup="adam")], steps=20)


def test_a_run_resumed_in_any_stage_ends_where_the_undisturbed_one_does(tmp_path):
    options = {"tx": optax.sgd(0.1, momentum=0.9), "steps": 30, "checkpoint_every": 5}
    stages = [
        Stage(4, triggers.steps(10)),
        Stage(8, triggers.plateau("loss", slope=10.0, patience=2)),
        Stage(16),
    ]
    whole = tiny.run(stages, **options)

    class Stop:
        def __init__(self, at):
            self.at = at

        def __call__(self, now):
            from trainkit.loop.hooks import Change

            return Change(stop="stopped") if now.steps == self.at else None

    out = tmp_path / "run"
    for at in (7, 13, 26):  # in each of the three stages, between checkpoints
        tiny.run(stages, out=out, hooks=[Stop(at)], report=False, **options)
    resumed = tiny.run(stages, out=out, report=False, **options)
    assert resumed.fit.steps == 30
    assert resumed.stage == whole.stage == 2
    for a, b in zip(
        jax.tree.leaves(whole.state.params), jax.tree.leaves(resumed.state.params), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    assert [e["step"] for e in resumed.history] == [e["step"] for e in whole.history]
    assert resumed.ledger.train == pytest.approx(whole.ledger.train)


def test_a_growth_can_be_replayed_from_the_state_before_it():
    stages = [Stage(4, triggers.steps(10)), Stage(8)]
    before = tiny.run([Stage(4)], steps=10, decay=0.0)
    grown = tiny.run(stages, steps=11, decay=0.0)
    from trainkit.progressive.run import replay
    from trainkit.progressive.stages.prepared import Recipe, prepare_levels
    from trainkit.progressive.stages.stage import normalised

    recipe = Recipe(
        build=tiny.build,
        tx=optax.sgd(0.1),
        data=tiny.sampler,
        validation=tiny.parts(tiny.arrays(64, seed=1), 16),
        grow=tiny.grow,
    )
    levels = prepare_levels(recipe, normalised(stages))
    state = replay(grown.history, before.state, levels)
    assert state.params["in"].shape == (tiny.FEATURES, 8)
    np.testing.assert_array_equal(
        state.params["in"], np.tile(np.asarray(before.state.params["in"]), (1, 2))
    )


# -- what is refused --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stages", "options", "error", "words"),
    [
        ([Stage(8, triggers.steps(5)), Stage(4)], {}, StageError, r"Stage 1 shrinks.*shrink=True"),
        (
            [Stage(4, triggers.reaches("f1", 0.5)), Stage(8)],
            {},
            StageError,
            r"nothing computes 'f1'.*accuracy, loss",
        ),
        ([Stage(4)], {"flops": 10.0}, StageError, "below one step"),
        ([Stage(4)], {"examples": 5}, StageError, "below one step"),
        ([Stage(4, triggers.flops(10.0)), Stage(8)], {}, StageError, "below one step"),
        ([Stage(4, triggers.steps(500)), Stage(8)], {}, StageError, "would never come"),
        (
            [Stage(4, triggers.steps(9)), Stage(8, triggers.steps(9)), Stage(16)],
            {},
            StageError,
            r"after 18 steps of the run.*last 4, in which the learning rate falls",
        ),
        (
            [Stage(4, triggers.epochs(9)), Stage(8)],
            {},
            StageError,
            r"after 54 steps of the run at the earliest \(until 9 epochs\)",
        ),
        (
            [Stage(4, triggers.plateau("loss")), Stage(8)],  # five evaluations, every 5 steps
            {},
            StageError,
            r"after 25 steps.*loss flat over 5 evaluations",
        ),
        ([Stage(4)], {"steps": None, "epochs": 0.1}, StageError, "below one step"),
        ([Stage(4)], {"steps": "20"}, ValueError, "steps must be an integer.*, not '20'"),
        ([Stage(4)], {"validation": []}, ValueError, "validation has no batches"),
        ([Stage(4)], {"target": "loss"}, TypeError, "target must be a Trigger, such as triggers"),
        ([Stage(4)], {"probe": True}, TypeError, "probe must be a Probe, such as"),
        ([Stage(4)], {"price": 0.1}, TypeError, "price must be a Price"),
        ([Stage(4)], {"tx": None}, TypeError, "tx must be a gradient transformation"),
        ([Stage(4)], {"build": lambda width: width}, TypeError, "build gave a int for stage 0"),
        ([Stage(4)], {"evaluate_every": 5}, TypeError, "no option 'evaluate_every'"),
        (4, {}, StageError, "stages must be a list of Stages, not a int"),
        ([4], {}, StageError, "Stage 0 is 4; expected Stage"),
        (
            [
                Stage(4, triggers.steps(5), data=Data(batch_size=8)),
                Stage(8, data=Data(batch_size=16)),
            ],
            {"data": lambda _: tiny.sampler()},
            StageError,
            "ignores batch_size",
        ),
        ([Stage(4), Stage(8)], {}, StageError, "has no `until`"),
        ([Stage(4, triggers.steps(5)), Stage(6)], {}, GrowthError, "6 is no multiple of 4"),
        ([], {}, StageError, "no stages"),
        ([Stage(4)], {"target": triggers.reaches("f1", 0.5)}, ValueError, "'f1'"),
        ([Stage(4)], {"steps": 0}, ValueError, "steps must be an integer of at least 1, not 0"),
        ([Stage(4)], {"steps": None}, ValueError, "never end"),
        ([Stage(4)], {"decay": 1.0}, ValueError, r"decay must be in \[0, 1\), not 1.0"),
        (
            [Stage(4, triggers.steps(5)), Stage(None, data=Data(batch_size=32))],
            {},
            ValueError,
            "one sampler for all",
        ),
        (
            [
                Stage(4, triggers.steps(5), data=Data(batch_size=32)),
                Stage(8, data=Data(batch_size=8)),
            ],
            {"data": tiny.sampler},
            StageError,
            "batch_size from 32 to 8",
        ),
    ],
)
def test_bad_input_is_refused_before_training(stages, options, error, words):
    with pytest.raises(error, match=words):
        tiny.run(stages, **{"steps": 20, **options})


@pytest.mark.parametrize(
    "make",
    [
        lambda: triggers.steps("5"),
        lambda: triggers.reaches("loss", "low"),
        lambda: triggers.reaches(3, 0.5),
        lambda: triggers.steps(5) | 5,
        lambda: triggers.steps(5) & None,
        lambda: Stage(4, until=lambda step: step > 5),
        lambda: Stage(4, data={"batch_size": 8}),
        lambda: Stage(4, rewarm="5"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_where_it_is_written(make):
    with pytest.raises((TypeError, ValueError), match=r"number|integer|name|trigger|Data"):
        make()


def test_a_target_may_be_any_trigger():
    result = tiny.run(
        [Stage(4)], steps=50, target=triggers.steps(8) & triggers.reaches("loss", 9.0)
    )
    assert result.ended == "target reached: 8 steps and loss ≤ 9"
    assert result.fit.steps == 10  # the first evaluation from there


def test_an_unknown_operator_is_named_with_those_there_are():
    with pytest.raises(ValueError, match=r"did you mean 'stack'.*interpose"):
        Stage(4, how="stak")
